"""What only real brokers do: members that come and go, records that retention or a transaction took away."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from prometheus_client import REGISTRY

from app.errors import ConfigurationError, Unavailable
from app.kafka.retention import check_retention
from app.lifecycle import supervise, wait
from tests.consuming import (
    PARTITIONS,
    Consuming,
    answered,
    ce,
    consuming,
    kafka_settings,
    lag,
    producing,
    request_xml,
    running,
    send,
    success_xml,
    user_xml,
)
from tests.services.fixtures import PrivateKafka
from tests.services.kafka import RealKafka
from tests.waiting import until

pytestmark = pytest.mark.real_kafka

_LONG = timedelta(minutes=3)


@pytest.fixture
async def users(database_url: str, kafka: RealKafka) -> AsyncIterator[Consuming]:
    async with consuming(database_url, **await kafka_settings(kafka), consumer_batch_records=50) as it:
        yield it


async def _redelivered(kafka: RealKafka, users: Consuming, numbers: range) -> None:
    """Each request twice, on two partitions."""
    async with producing(kafka) as producer:
        for number in numbers:
            value = request_xml(user_xml(f"{number}@example.com"))
            for copy in range(2):
                await producer.send(
                    users.settings.users_requests_topic,
                    value,
                    key=b"%d" % number,
                    partition=(number + copy) % PARTITIONS,
                    headers=ce(str(number)),
                )
        await producer.flush()


@pytest.mark.slow
async def test_two_members_with_rebalances_every_two_seconds(kafka: RealKafka, users: Consuming) -> None:
    """A second consumer joins and leaves, and sometimes dies, while requests come, each twice, on two partitions."""
    disturbances = 0

    async def consume(stop: asyncio.Event) -> None:
        await users.consumer().run(stop)

    async def disturb(stop: asyncio.Event) -> None:
        nonlocal disturbances
        while not stop.is_set():
            leave = asyncio.Event()
            task = asyncio.create_task(consume(leave))
            await wait(stop, timedelta(seconds=2))
            if disturbances % 3 == 2:
                task.cancel()
            leave.set()
            await asyncio.gather(task, return_exceptions=True)
            disturbances += 1
            await until(partial(went_on, await lag(kafka, users)), _LONG)  # rebalances may outlast what is between them

    async def went_on(before: int) -> bool:
        return stop.is_set() or await lag(kafka, users) < before or before == 0

    async def consumed() -> bool:
        return await lag(kafka, users) == 0

    stop = asyncio.Event()
    tasks = [asyncio.create_task(consume(stop)), asyncio.create_task(disturb(stop))]
    total = 0
    try:
        while disturbances < 7:
            await _redelivered(kafka, users, range(total, total + 500))
            total += 500
            await until(consumed, _LONG)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert len(await users.users()) == total
    replies = await users.owed()
    assert len(replies) == total
    assert {reply.key for reply in replies} == {b"%d" % number for number in range(total)}


async def test_a_revocation_waits_for_the_batch_in_hand(
    kafka: RealKafka, users: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(kafka, users, range(30))
    first, second = users.consumer(), users.consumer()
    entered, proceed = asyncio.Event(), asyncio.Event()
    whole, seen = first._batches.handle, []

    async def slow(records: list[object]) -> None:
        entered.set()
        await proceed.wait()
        await whole(records)  # type: ignore[arg-type]

    async def count(records: list[object]) -> None:
        seen.extend(records)

    monkeypatch.setattr(first._batches, "handle", slow)
    monkeypatch.setattr(second._batches, "handle", count)
    async with running(first):
        await entered.wait()
        async with running(second):

            async def asked_to_give_up() -> bool:
                assert first._member is not None
                return first._member._hurry.is_set()

            await until(asked_to_give_up)
            proceed.set()

            async def both() -> bool:
                assert second._member is not None
                return bool(second._member._kafka.assignment()) and await lag(kafka, users) == 0

            await until(both)
    assert seen == []
    assert len(await users.users()) == 30


async def test_retention_that_overtook_the_offset_is_an_alarm_until_accepted(
    kafka: RealKafka, users: Consuming
) -> None:
    await send(kafka, users, range(30))
    async with running(users.consumer()):
        await answered(users, 30)
    await send(kafka, users, range(30, 60))
    topic = users.settings.users_requests_topic
    unread = [each for each in await kafka.records(topic, at_least=60) if int(each.key or b"0") >= 30]
    cut = TopicPartition(topic, unread[0].partition)
    first_kept = max(each.offset for each in unread if each.partition == cut.partition) - 1
    async with kafka.admin() as admin:
        await admin.delete_records({cut: RecordsToDelete(before_offset=first_kept)})
    elsewhere = sum(each.partition != cut.partition for each in unread)
    labels = {"consumer": users.settings.users_group, "topic": topic, "partition": str(cut.partition)}
    consumer = users.consumer()
    async with running(consumer):

        async def alarmed() -> bool:
            return REGISTRY.get_sample_value("consumer_gap", labels) == 1

        await until(alarmed)
        with pytest.raises(Unavailable, match=f"{topic}-{cut.partition}.*--accept-gap"):
            await consumer.check()
        # The other partitions go on.
        await answered(users, 30 + elsewhere)
    async with running(users.consumer(accept_gap=True)):
        await answered(users, 30 + elsewhere + 2)
    assert await users.dead_letters() == []


async def test_what_was_aborted_is_not_a_request(kafka: RealKafka, users: Consuming) -> None:
    topic = users.settings.users_requests_topic
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=topic)
    await producer.start()
    try:
        for name, keep in (("aborted", False), ("committed", True)):
            await producer.begin_transaction()
            await producer.send(topic, request_xml(user_xml(f"{name}@example.com")), partition=0)
            await (producer.commit_transaction() if keep else producer.abort_transaction())
    finally:
        await producer.stop()
    async with running(users.consumer()):
        await answered(users, 1)
    (user,) = await users.users()
    assert user["email"] == "committed@example.com"
    assert (await users.owed())[0].payload == success_xml(user["id"])


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_all_codecs(kafka: RealKafka, users: Consuming, codec: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, compression_type=codec)
    await producer.start()
    try:
        await producer.send_and_wait(users.settings.users_requests_topic, request_xml(user_xml(codec + "@example.com")))
    finally:
        await producer.stop()
    async with running(users.consumer()):
        await answered(users, 1)
    assert len(await users.users()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_brokers_away_and_back(database_url: str, private_kafka: PrivateKafka, fault: str) -> None:
    kafka = await private_kafka()
    async with consuming(database_url, **await kafka_settings(kafka)) as users:
        stop = asyncio.Event()
        consumer = users.consumer()
        consumer_task = asyncio.create_task(supervise("users", lambda: consumer.run(stop), stop))
        await send(kafka, users, range(20))
        await answered(users, 20)
        if fault == "killed":
            await kafka.brokers.kill(1)
            await kafka.brokers.start_broker(1)
            await kafka.wait_until_ready(1)
        else:
            await kafka.brokers.pause(1)
            await wait(stop, timedelta(seconds=8))
            await kafka.brokers.resume(1)
        await send(kafka, users, range(20, 40))

        async def all_answered() -> bool:
            return len(await users.owed()) == 40

        await until(all_answered, timedelta(seconds=90))
        stop.set()
        async with asyncio.timeout(20):
            await consumer_task
        assert len(await users.users()) == 40
        assert await users.dead_letters() == []


async def test_a_topic_that_keeps_records_longer_than_the_inbox_is_refused(kafka: RealKafka, users: Consuming) -> None:
    longer = await kafka.create_topic(retention_ms="172800000")
    endless = await kafka.create_topic(retention_ms="-1")
    await check_retention(users.settings, [longer, endless], timedelta(days=2))
    with pytest.raises(ConfigurationError, match=f"INBOX_RETENTION: {longer} keeps records for 2 days"):
        await check_retention(users.settings, [longer, endless], timedelta(days=1))


@pytest.mark.slow
async def test_the_topic_is_made_while_the_consumer_waits(kafka: RealKafka, users: Consuming) -> None:
    users.settings = users.settings.model_copy(update={"users_requests_topic": f"{users.settings.users_group}-late"})
    consumer = users.consumer()
    async with running(consumer):

        async def waits() -> bool:
            return consumer._member is not None and not consumer._member._offsets.never_assigned

        await until(waits)
        with pytest.raises(Unavailable, match="there is no topic"):
            await consumer.check()
        await kafka.create_topic(users.settings.users_requests_topic, partitions=PARTITIONS)
        await send(kafka, users, range(10))
        await answered(users, 10)
        await consumer.check()
