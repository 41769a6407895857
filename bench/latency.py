"""How long a message takes from its commit to the topic, under steady traffic that does not wait for the relay.

The broker itself says when it appended a record; a consumer that listens meanwhile would take its share of the machine,
and so would a writer that does more than it must: this one speaks plain SQL.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias
from uuid import uuid4

import asyncpg

from bench import outbox as outbox_table
from bench.baselines import TEXTBOOK_ADD, fill_textbook, producer
from bench.messages import TYPE, samples
from bench.options import Options
from bench.processes import child
from bench.results import Goal, Measure, Table, percentile
from bench.services import PARTITIONS, Services
from relay.loop import Relay
from relay.publisher import KafkaPublisher
from tests.services.postgres_server import dsn

_RATES = (600, 1000)
_WARM_UP = 1.0  # seconds that do not count: connections and prepared statements are made then
_BROKER_WARM_UP = 100  # seconds: until then a broker that was just started compiles what it does
_HALF = 0.0005  # a broker's times are cut to whole milliseconds
_SHORTEST = 3  # seconds: a turn has enough messages for its p99
_CONNECTIONS = 10

_ADD = "SELECT outbox_add($1, $2::bytea, $3::bytea, type => $4)"
_ROWS = "CREATE TABLE IF NOT EXISTS bench_rows (id bigserial PRIMARY KEY, key bytea, payload bytea)"
_ADD_ROW = "INSERT INTO bench_rows (key, payload) VALUES ($1, $2)"


_After: TypeAlias = Callable[[bytes, bytes], Awaitable[object]]


async def _nothing(_key: bytes, _payload: bytes) -> None:
    """A committed message needs nothing more of its writer."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a message gets to its topic: what its transaction does, and what its writer does after that."""

    write: Callable[[asyncpg.Connection, bytes, bytes], Awaitable[object]]
    after: _After


OpenWay: TypeAlias = Callable[[Services, str], AbstractAsyncContextManager[Way]]


@asynccontextmanager
async def relay_apart(services: Services, topic: str) -> AsyncIterator[Way]:
    """The relay in a process of its own, as in production. It polls."""
    async with child("bench.relay_process", services.environment()):
        await _relay_is_there(services)
        yield _outbox(topic)


@asynccontextmanager
async def relay_inside(services: Services, topic: str) -> AsyncIterator[Way]:
    """The relay in the writer's process, which wakes it."""
    settings = services.settings()
    relay, stop = Relay(settings, lambda: KafkaPublisher(settings)), asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    async def wake(_key: bytes, _payload: bytes) -> None:
        relay.wake()

    try:
        await _relay_is_there(services)
        yield _outbox(topic, wake)
    finally:
        stop.set()
        await asyncio.wait_for(running, timeout=30)


@asynccontextmanager
async def send_after_commit(services: Services, topic: str) -> AsyncIterator[Way]:
    """No outbox: a row is committed, then the writer sends. A crash in between loses the message; no way is shorter."""
    async with services.database() as connection:
        await connection.execute(_ROWS)
    client = producer(services.settings())

    async def write(connection: asyncpg.Connection, key: bytes, payload: bytes) -> None:
        await connection.execute(_ADD_ROW, key, payload)

    async def send(key: bytes, payload: bytes) -> None:
        await client.send_and_wait(topic, payload, key=key)

    await client.start()
    try:
        yield Way(write, send)
    finally:
        await client.stop()


@asynccontextmanager
async def textbook_apart(services: Services, topic: str) -> AsyncIterator[Way]:
    """The textbook's relay in a process of its own. It polls, and keeps neither order nor receipts."""
    (sample,) = samples(1, topic=topic)
    async with services.database() as connection:
        await fill_textbook(connection, topic, [])

    async def write(connection: asyncpg.Connection, key: bytes, payload: bytes) -> None:
        await connection.execute(TEXTBOOK_ADD, uuid4(), topic, key, sample.headers, payload, TYPE)

    async with child("bench.textbook_process", services.environment()) as process:
        await process.hear()
        yield Way(write, _nothing)


WAYS: Mapping[str, OpenWay] = {
    "relay in its own process": relay_apart,
    "relay in the writer's process": relay_inside,
    "textbook's relay in its own process": textbook_apart,
    "send() after the commit, unsafe": send_after_commit,
}


async def run(services: Services, options: Options) -> list[Table]:
    if not services.kafka.real:
        return [Table("latency", "not measured: the embedded Kafka does not say when it has a record", {}, [])]
    turn = max(_SHORTEST, options.seconds // options.rounds)
    found: defaultdict[str, list[tuple[float, list[float]]]] = defaultdict(list)
    await _delays(services, relay_apart, _RATES[-1], _BROKER_WARM_UP)
    for _ in range(options.rounds):
        for rate in _RATES:
            for name, way in WAYS.items():
                found[f"{rate}/s, {name}"].append(await _delays(services, way, rate, turn))
    rows: dict[str, dict[str, Measure]] = {}
    goals: list[Goal] = []
    for rate in _RATES:
        for name, way in WAYS.items():
            turns = found[f"{rate}/s, {name}"]
            row = {
                f"p{share} ms": Measure(tuple(percentile(delays, share / 100) for _, delays in turns))
                for share in (50, 90, 99)
            }
            written = Measure((statistics.median(written for written, _ in turns),))
            rows[f"{rate}/s, {name}"] = {"written/s": written, **row}
            if way in (relay_apart, relay_inside):
                goals.append(Goal(f"p50, {rate}/s, {name}:", row["p50 ms"], ceiling=4))
                goals.append(Goal(f"p99, {rate}/s, {name}:", row["p99 ms"], ceiling=20))
    return [
        Table(
            "latency",
            f"from COMMIT being sent to the broker's append, a message a transaction, "
            f"{options.rounds} turns of {turn} s each",
            rows,
            goals,
            ["In its own process the relay polls; in the writer's a commit wakes it."],
        )
    ]


async def _delays(services: Services, way: OpenWay, rate: int, seconds: int) -> tuple[float, list[float]]:
    """Messages written a second (fewer than asked for on a machine that is too busy), and the delays, sorted, in ms."""
    topic = await services.kafka.create_topic(partitions=PARTITIONS, message_timestamp_type="LogAppendTime")
    async with way(services, topic) as ready:
        committed = await _write(services, ready, rate, seconds)
        records = await services.kafka.records(topic, at_least=len(committed))
    appended: dict[bytes, float] = {}
    for record in records:
        appended.setdefault(record.key or b"", record.timestamp / 1000 + _HALF)
    first, last = min(committed.values()), max(committed.values())
    delays = sorted((appended[key] - at) * 1000 for key, at in committed.items() if at >= first + _WARM_UP)
    return len(committed) / (last - first), delays


async def _write(services: Services, way: Way, rate: int, seconds: int) -> dict[bytes, float]:
    """Add messages at this rate whatever becomes of them; by key, when each COMMIT was sent.

    Not when it was answered: a busy writer hears that late, and its message may be in the topic by then.
    """
    payloads = [each.payload for each in samples(int(rate * (seconds + _WARM_UP)), topic="any")]
    committed: dict[bytes, float] = {}

    async def add(key: bytes, payload: bytes) -> None:
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await way.write(connection, key, payload)
            committed[key] = time.time()
            await transaction.commit()
        await way.after(key, payload)

    async with asyncpg.create_pool(
        dsn(services.database_url), min_size=_CONNECTIONS, max_size=_CONNECTIONS, reset=_keep
    ) as pool:
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number, payload in enumerate(payloads):
                await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
                tasks.create_task(add(f"key-{number}".encode(), payload))
    return committed


async def _keep(_connection: asyncpg.Connection) -> None:
    """It goes back to the pool as it is: nothing was set that another transaction would notice."""


def _outbox(topic: str, after: _After = _nothing) -> Way:
    async def write(connection: asyncpg.Connection, key: bytes, payload: bytes) -> None:
        await connection.execute(_ADD, topic, key, payload, TYPE)

    return Way(write, after)


async def _relay_is_there(services: Services) -> None:
    async with services.database() as connection:
        await outbox_table.connected(connection, services.settings().relay_slots)
