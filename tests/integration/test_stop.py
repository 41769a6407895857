"""A relay that is told to stop finishes or gives up what it has in hand, in time."""

import signal
from collections.abc import Callable
from datetime import timedelta

from app.settings import load
from tests.engine import connect, empty
from tests.judge import verify
from tests.ledger import Ledger
from tests.relay_process import RelayProcess, relay_process
from tests.relaying import HURRIED, ONE_SLOT
from tests.services.kafka import Kafka, MockKafka
from tests.waiting import until

_LEAVE = timedelta(seconds=10)
"""What a process may need to end on a busy machine, once it has finished or given up what it had in hand."""


async def test_sigterm_in_the_middle_of_a_full_drain(database_url: str, kafka: Kafka) -> None:
    deadline = load(_env_file=None).publish_deadline
    topic = await kafka.create_topic()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        await ledger.fill(topic, messages=60_000, keys=1000, size=100)
        for share in (10_000, 30_000):
            async with relay_process(database_url, kafka.bootstrap_servers) as relay:
                delivered = "SELECT count(*) >= $1 FROM outbox_receipts"
                await until(lambda: connection.fetchval(delivered, share))  # noqa: B023 - called in this iteration
                relay.signal(signal.SIGTERM)
                assert await relay.wait(deadline) == 0
            assert await connection.fetchval("SELECT EXISTS (TABLE outbox_messages)"), "it was not in the middle"
        async with relay_process(database_url, kafka.bootstrap_servers):
            await empty(database_url)
    await verify(kafka, database_url, ledger.messages)  # finished, not given up: nothing came twice


async def test_sigterm_while_the_broker_does_not_answer(
    database_url: str, mock_kafka: Callable[[int], MockKafka]
) -> None:
    kafka = mock_kafka(1)
    topic = await kafka.create_topic()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with relay_process(database_url, kafka.bootstrap_servers, **HURRIED | ONE_SLOT) as relay:
            await ledger.fill(topic, messages=1)
            await empty(database_url)
            kafka.mock.set_round_trip_time(1, timedelta(minutes=1))
            await ledger.fill(topic, messages=10)
            publishing = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle in transaction')"
            await until(lambda: connection.fetchval(publishing))
            relay.signal(signal.SIGTERM)
            assert await relay.wait(timedelta(seconds=HURRIED["publish_deadline"]) + _LEAVE) == 0
        assert await connection.fetchval("SELECT count(*) FROM outbox_messages") == 10


async def test_a_second_signal_ends_at_once(database_url: str, mock_kafka: Callable[[int], MockKafka]) -> None:
    kafka = mock_kafka(1)
    topic = await kafka.create_topic()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with relay_process(database_url, kafka.bootstrap_servers, **ONE_SLOT) as relay:
            await ledger.fill(topic, messages=1)
            await empty(database_url)
            kafka.mock.set_round_trip_time(1, timedelta(minutes=1))
            await ledger.fill(topic, messages=10)
            publishing = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle in transaction')"
            await until(lambda: connection.fetchval(publishing))
            relay.signal(signal.SIGTERM)
            await until(lambda: _told(relay))
            relay.signal(signal.SIGTERM)
            assert await relay.wait(_LEAVE) == 128 + signal.SIGTERM
        assert await connection.fetchval("SELECT count(*) FROM outbox_messages") == 10


async def _told(relay: RelayProcess) -> bool:
    return "stop.asked" in relay.log
