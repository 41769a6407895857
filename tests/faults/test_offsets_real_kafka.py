"""Offsets that a real broker refuses, each for its own reason. (`test_coordinator.py` has those of a coordinator.)"""

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from tests.consuming import answered, consuming, kafka_settings, send
from tests.faults.committing import LONG, all_told, coordinator, effects, held, lost, refusals, supervised, told
from tests.services.brokers import AUTHORIZER
from tests.services.fixtures import PrivateKafka
from tests.services.kafka import RealKafka
from tests.waiting import until

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]


async def test_of_a_member_that_was_put_out(
    kafka: RealKafka, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """UNKNOWN_MEMBER_ID: its heartbeats do not come for longer than its session."""
    async with consuming(database_url, **await kafka_settings(kafka)) as users, supervised(users) as consumer:
        await send(kafka, users, range(20))
        await answered(users, 20)
        await all_told(kafka, users, 20)
        member = consumer._member

        async def put_out() -> bool:
            async with kafka.admin() as admin:
                (answer,) = await admin.describe_consumer_groups([users.settings.users_group])
            return not answer.groups[0][5]

        with refusals(caplog) as seen:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(coordinator(consumer), "_do_heartbeat", lost)
                await until(put_out, LONG)
                await send(kafka, users, range(20, 40))
                await seen.come("UnknownMemberIdError")
            await answered(users, 40)
            await all_told(kafka, users, 40)
        assert consumer._member is member, "it was started anew"
        await effects(users, 40)


@pytest.mark.parametrize(
    ("slow_request", "error"),
    [(JoinGroupRequest, "IllegalGenerationError"), (SyncGroupRequest, "RebalanceInProgressError")],
)
async def test_of_a_member_that_is_joining_anew(
    kafka: RealKafka, database_url: str, caplog: pytest.LogCaptureFixture, slow_request: type, error: str
) -> None:
    """ILLEGAL_GENERATION and REBALANCE_IN_PROGRESS: when another one joins, the batch in hand takes longer than it may,
    and is done while its consumer has not yet heard the answer, or not yet said who gets what.
    """
    patience = {"consumer_database_deadline": 3.0, "consumer_drain_deadline": 3.0, "consumer_session_timeout": 30.0}
    async with (
        consuming(database_url, **await kafka_settings(kafka) | patience) as users,
        supervised(users) as consumer,
    ):
        await send(kafka, users, range(20))
        await answered(users, 20)
        await all_told(kafka, users, 20)
        member, group = consumer._member, coordinator(consumer)
        send_request, joining, go_on = group._send_req, asyncio.Event(), asyncio.Event()

        async def slow(request: object) -> object:
            if not isinstance(request, slow_request):
                return await send_request(request)
            if slow_request is SyncGroupRequest:
                joining.set()
                await go_on.wait()
            answer = await send_request(request)
            joining.set()
            await go_on.wait()
            return answer

        async with AsyncExitStack() as others:
            with pytest.MonkeyPatch.context() as patch, refusals(caplog) as seen:
                patch.setattr(group, "_send_req", slow)
                with held(consumer) as in_hand:
                    await send(kafka, users, range(20, 40))
                    await asyncio.wait_for(in_hand.wait(), LONG.total_seconds())
                    await others.enter_async_context(supervised(users))
                    await asyncio.wait_for(joining.wait(), LONG.total_seconds())
                    assert not await told(kafka, users, 40)
                await seen.come(error)
                go_on.set()
            await answered(users, 40)
            await all_told(kafka, users, 40)
            assert consumer._member is member, "it was started anew"
            await effects(users, 40)


async def test_of_a_group_that_is_forbidden(
    private_kafka: PrivateKafka, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """GROUP_AUTHORIZATION_FAILED: nobody may be of this group for now. Its consumer is started anew until it may."""
    kafka = await private_kafka(properties=AUTHORIZER)
    async with consuming(database_url, **await kafka_settings(kafka)) as users, supervised(users) as consumer:
        await send(kafka, users, range(20))
        await answered(users, 20)
        await all_told(kafka, users, 20)
        with refusals(caplog) as seen:
            with held(consumer) as in_hand:
                await send(kafka, users, range(20, 40))
                await asyncio.wait_for(in_hand.wait(), LONG.total_seconds())
                assert not await told(kafka, users, 40)
                await kafka.deny_group(users.settings.users_group)
            await seen.come("GroupAuthorizationFailedError")
        # What was in hand is done, though Kafka does not know; what was not may not even be read for now.
        assert await users.connection.fetchval("SELECT count(*) FROM inbox_messages") > 20
        await kafka.allow_group(users.settings.users_group)
        await answered(users, 40)
        await all_told(kafka, users, 40)
        await send(kafka, users, range(40, 60))
        await answered(users, 60)
        await effects(users, 60)
