"""Pieces of a relay's life in which a mistake shows."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg

from app import failpoints, metrics, outbox
from app.outbox import OutboxMessage
from tests.engine import Broker, assess, connect, empty, engine
from tests.failpoints import Action, Fault, armed
from tests.judge import judge, read
from tests.ledger import Added, Ledger, added
from tests.relaying import hurried, running
from tests.seeded_bugs.bug import Bench
from tests.services.kafka import Kafka
from tests.waiting import until
from tests.writers import driver, sessions_on

_PLAIN = """
    INSERT INTO outbox_messages (lane, topic, payload, type) VALUES (0, 't', '\\x00', 't')
    RETURNING id, message_id, topic, key, headers, payload, type
"""
# Every round may move the floor, and the scan that would find what lies below it is for these tests to do.
_FLOORS = {"relay_floor_step": 1, "relay_floor_interval": 0.001, "relay_scan_interval": 3600, "relay_slots": 1}


async def _judge(kafka: Kafka, database_url: str, messages: Sequence[Added], *, repeats: int = 0) -> None:
    """What `tests.judge` says now, without waiting for what may never come."""
    async with connect(database_url) as connection:
        receipts, left = await read(connection)
    records = [
        record for topic in {message.topic for message in messages} for record in await kafka.records(topic, at_least=0)
    ]
    judge(messages, records, receipts, left, repeats=repeats)


async def die_before_sending(bench: Bench) -> None:
    """A slot dies with a batch in its hands that it has not sent."""
    topic = await bench.kafka.create_topic()
    async with connect(bench.database_url) as connection:
        ledger = Ledger(connection)
        await ledger.fill(topic, messages=10)
        settings = hurried(bench.database_url, bench.kafka.bootstrap_servers)
        with armed(Fault("relay.before_send", Action.CANCEL)) as arming:
            async with running(settings):
                await asyncio.wait_for(arming.struck.wait(), 30)
                await empty(bench.database_url)
    await _judge(bench.kafka, bench.database_url, ledger.messages, repeats=10)


async def commit_late(bench: Bench) -> None:
    """A transaction draws its id and takes its time; others of its lane draw later ones and are delivered."""
    broker = Broker()
    async with (
        connect(bench.database_url) as slow,
        connect(bench.database_url) as quick,
        _scanned(bench.database_url, broker),
    ):
        late = slow.transaction()
        await late.start()
        messages = await _insert(slow)
        for _ in range(6):
            messages += await _insert(quick)
            await _delivered(broker, messages[-1])
        await late.commit()
        await empty(bench.database_url, bench.patience)
    await assess(bench.database_url, broker, messages)


async def between_claim_and_fetch(bench: Bench) -> None:
    """The same, where the transaction begins after a claim and before its fetch."""
    broker = Broker()
    async with connect(bench.database_url) as slow, connect(bench.database_url) as quick:
        late = slow.transaction()
        messages: list[Added] = []

        async def interpose(point: str) -> None:
            if point == "relay.after_claim":
                failpoints.hook = None
                await late.start()
                messages.extend(await _insert(slow))
                messages.extend(await _insert(quick))

        try:
            async with _scanned(bench.database_url, broker):
                failpoints.hook = interpose
                messages += await _insert(quick)
                await _delivered(broker, messages[0])
                for _ in range(4):
                    messages += await _insert(quick)
                    await _delivered(broker, messages[-1])
                await late.commit()
                await empty(bench.database_url, bench.patience)
        finally:
            failpoints.hook = None
    await assess(bench.database_url, broker, messages)


@asynccontextmanager
async def _scanned(database_url: str, broker: Broker) -> AsyncIterator[None]:
    """A relay whose housekeeping has looked below the floors, as it does at its start: that would mend these bugs."""
    before = _scans()

    async def is_over() -> bool:
        return _scans() > before

    async with engine(database_url, broker, **_FLOORS):
        await until(is_over)
        yield


def _scans() -> float:
    """How often it has done so in this process."""
    (metric,) = metrics.housekeeping_seconds.collect()
    counts = (sample for sample in metric.samples if sample.name.endswith("_count"))
    return sum(sample.value for sample in counts if sample.labels["task"] == "check_floors")


async def _insert(connection: asyncpg.Connection) -> list[Added]:
    return [Added(*await connection.fetchrow(_PLAIN))]


async def _delivered(broker: Broker, message: Added) -> None:
    async def came() -> bool:
        return message.message_id in broker.arrived_at

    await until(came)


async def refuse_the_first(bench: Bench) -> None:
    """The broker refuses the first request of a topic and takes the next ones."""
    kafka = bench.mock_kafka(1)
    topic = await kafka.create_topic(partitions=1)
    async with connect(bench.database_url) as connection:
        ledger = Ledger(connection)
        kafka.mock.push_request_errors(0, [29])  # Produce, TOPIC_AUTHORIZATION_FAILED
        async with running(hurried(bench.database_url, kafka.bootstrap_servers)):
            await ledger.fill(topic, messages=3, keys=1)
            await empty(bench.database_url)
    await _judge(kafka, bench.database_url, ledger.messages)


async def stay_silent_until_after_the_deadline(bench: Bench) -> None:
    """The broker goes away with a batch on its way, and comes back when that has been given up."""
    kafka = bench.mock_kafka(1)
    topic = await kafka.create_topic(partitions=1)
    settings = hurried(
        bench.database_url, kafka.bootstrap_servers, publish_deadline=1, kafka_request_timeout=0.5, relay_slots=1
    )
    async with connect(bench.database_url) as connection:
        ledger = Ledger(connection)
        async with running(settings) as relay:
            await ledger.fill(topic, messages=1)
            await empty(bench.database_url)
            kafka.mock.set_down(1)
            await ledger.fill(topic, messages=1)

            async def is_down() -> bool:
                return not relay._shared.breaker.closed

            await until(is_down)
            kafka.mock.set_up(1)
            await empty(bench.database_url)
            with suppress(AssertionError):  # it must not come; the judge says so
                await kafka.records(topic, at_least=3, timeout=timedelta(seconds=3))
            await _judge(kafka, bench.database_url, ledger.messages)


async def refuse_what_is_too_large(bench: Bench) -> None:
    """The broker refuses one message for its size; what follows on its partition must go on."""
    topic = await bench.kafka.create_topic(partitions=1, max_message_bytes="5000")
    async with connect(bench.database_url) as connection:
        ledger = Ledger(connection)
        async with running(hurried(bench.database_url, bench.kafka.bootstrap_servers, relay_slots=1)):
            await ledger.fill(topic, messages=5)
            # A broker that has stored nothing of a producer yet takes any sequence number from it.
            await bench.kafka.records(topic, at_least=5)
            (large,) = await ledger.add(topic, [(b"large", random.randbytes(10_000))])
            await ledger.fill(topic, messages=5)
            await empty(bench.database_url, 2 * bench.patience)
        _, left = await read(connection)
        assert set(left.dead) == {large.message_id}, f"dead letters: {left.dead}"


async def write_one_key_twice(bench: Bench) -> None:
    """Two transactions write one key; the first to draw its id is the last to commit, if it may."""
    topic = await bench.kafka.create_topic()

    def message() -> OutboxMessage:
        return OutboxMessage(topic=topic, key=b"k", payload=b"{}", type="t")

    settings = hurried(bench.database_url, bench.kafka.bootstrap_servers)
    async with running(settings), sessions_on(bench.database_url, 2) as sessions:
        written: list[Added] = []
        async with sessions() as slow, sessions() as quick:

            async def write_quickly() -> None:
                new = message()
                await outbox.add(quick, new)
                written.extend(await added(await driver(quick), [new.message_id]))
                await quick.commit()
                await bench.kafka.records(topic, at_least=1)

            new = message()
            await outbox.add(slow, new)
            written.extend(await added(await driver(slow), [new.message_id]))
            overtaking = asyncio.create_task(write_quickly())
            await _waits_or_ends(bench.database_url, overtaking)
            await slow.commit()
            await overtaking
        await empty(bench.database_url)
    await _judge(bench.kafka, bench.database_url, written)


async def _waits_or_ends(database_url: str, work: asyncio.Task[None]) -> None:
    """Wait until the work waits for a lock, or is done."""
    async with connect(database_url) as connection:

        async def so() -> bool:
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
            )
            return work.done() or bool(await connection.fetchval(waits))

        await until(so)
