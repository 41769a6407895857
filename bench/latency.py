"""How long a message takes from its commit to the topic, under steady traffic that does not wait for the relay.

The broker itself says when it appended a record, and pgbench when a COMMIT was answered: a consumer that listens
meanwhile, or a writer that does more than it must, would take its share of the machine.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeAlias

import asyncpg

from bench import outbox as outbox_table
from bench import pgbench
from bench.baselines import fill_textbook, producer
from bench.messages import TYPE, samples
from bench.options import Options
from bench.pgbench import CLIENTS, KEY
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

_ADD = "SELECT outbox_add($1, $2::bytea, $3::bytea, type => $4)"
_PGBENCH_ADD = f"SELECT outbox_add(:topic, {KEY}, payload, type => '{TYPE}')"
_ROWS = "CREATE TABLE IF NOT EXISTS bench_rows (id bigserial PRIMARY KEY, key bytea, payload bytea)"
_ADD_ROW = "INSERT INTO bench_rows (key, payload) VALUES ($1, $2)"

Write: TypeAlias = Callable[[int, float], Awaitable[dict[bytes, float]]]
"""Add messages at this rate, for so many seconds; by key, when each was committed (seconds since 1970)."""

OpenWay: TypeAlias = Callable[[Services, str], AbstractAsyncContextManager[Write]]
"""How messages get to this topic."""

_Statement: TypeAlias = Callable[[asyncpg.Connection, bytes, bytes], Awaitable[object]]


@asynccontextmanager
async def relay_apart(services: Services, topic: str) -> AsyncIterator[Write]:
    """The relay in a process of its own, as in production. It polls."""
    async with child("bench.relay_process", services.environment()):
        await _relay_is_there(services)
        yield partial(pgbench.write, services, topic, _PGBENCH_ADD)


@asynccontextmanager
async def relay_inside(services: Services, topic: str) -> AsyncIterator[Write]:
    """The relay in the writer's process, which wakes it."""
    settings = services.settings()
    relay, stop = Relay(settings, lambda: KafkaPublisher(settings)), asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    async def add(connection: asyncpg.Connection, key: bytes, payload: bytes) -> None:
        await connection.execute(_ADD, topic, key, payload, TYPE)

    async def wake(_key: bytes, _payload: bytes) -> None:
        relay.wake()

    try:
        await _relay_is_there(services)
        yield partial(_write_here, services, add, wake)
    finally:
        stop.set()
        await asyncio.wait_for(running, timeout=30)


@asynccontextmanager
async def send_after_commit(services: Services, topic: str) -> AsyncIterator[Write]:
    """No outbox: a row is committed, then the writer sends. A crash in between loses the message; no way is shorter."""
    async with services.database() as connection:
        await connection.execute(_ROWS)
    client = producer(services.settings())

    async def add(connection: asyncpg.Connection, key: bytes, payload: bytes) -> None:
        await connection.execute(_ADD_ROW, key, payload)

    async def send(key: bytes, payload: bytes) -> None:
        await client.send_and_wait(topic, payload, key=key)

    await client.start()
    try:
        yield partial(_write_here, services, add, send)
    finally:
        await client.stop()


@asynccontextmanager
async def textbook_apart(services: Services, topic: str) -> AsyncIterator[Write]:
    """The textbook's relay in a process of its own. It polls, and keeps neither order nor receipts."""
    async with services.database() as connection:
        await fill_textbook(connection, topic, [])
    async with child("bench.textbook_process", services.environment()) as process:
        await process.hear()
        yield partial(pgbench.write, services, topic, _pgbench_add_textbook())


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
            if way is relay_apart:
                goals.append(Goal(f"p50, {rate}/s, {name}:", row["p50 ms"], ceiling=4))
                goals.append(Goal(f"p99, {rate}/s, {name}:", row["p99 ms"], ceiling=20))
    return [
        Table(
            "latency",
            f"from COMMIT being answered to the broker's append, a message a transaction, "
            f"{options.rounds} turns of {turn} s each",
            rows,
            goals,
            [
                "pgbench writes for a relay in its own process, at random moments; such a relay polls.",
                "Python writes in the other rows: it takes more of the machine, and hears later of its commits.",
            ],
        )
    ]


async def _delays(services: Services, way: OpenWay, rate: int, seconds: int) -> tuple[float, list[float]]:
    """Messages written a second (fewer than asked for on a machine that is too busy), and the delays, sorted, in ms."""
    topic = await services.kafka.create_topic(partitions=PARTITIONS, message_timestamp_type="LogAppendTime")
    async with way(services, topic) as write:
        committed = await write(rate, seconds + _WARM_UP)
        records = await services.kafka.records(topic, at_least=len(committed))
    appended: dict[bytes, float] = {}
    for record in records:
        appended.setdefault(record.key or b"", record.timestamp / 1000 + _HALF)
    first, last = min(committed.values()), max(committed.values())
    delays = sorted((appended[key] - at) * 1000 for key, at in committed.items() if at >= first + _WARM_UP)
    return len(committed) / (last - first), delays


async def _write_here(
    services: Services, add: _Statement, after: Callable[[bytes, bytes], Awaitable[object]], rate: int, seconds: float
) -> dict[bytes, float]:
    """A writer in this process: for each key and payload `add` in a transaction, then `after`."""
    payloads = [each.payload for each in samples(int(rate * seconds), topic="any")]
    committed: dict[bytes, float] = {}

    async def one(key: bytes, payload: bytes) -> None:
        async with pool.acquire() as connection:
            async with connection.transaction():
                await add(connection, key, payload)
            committed[key] = time.time()
        await after(key, payload)

    async with asyncpg.create_pool(dsn(services.database_url), min_size=CLIENTS, max_size=CLIENTS, reset=_keep) as pool:
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number, payload in enumerate(payloads):
                await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
                tasks.create_task(one(f"key-{number}".encode(), payload))
    return committed


async def _keep(_connection: asyncpg.Connection) -> None:
    """It goes back to the pool as it is: nothing was set that another transaction would notice."""


def _pgbench_add_textbook() -> str:
    (sample,) = samples(1, topic="any")
    headers = ", ".join(f"'\\x{part.hex()}'" for part in sample.headers)
    return (
        "INSERT INTO bench_textbook (message_id, topic, key, headers, payload, type) "
        f"SELECT gen_random_uuid(), :topic, {KEY}, ARRAY[{headers}]::bytea[], payload, '{TYPE}'"
    )


async def _relay_is_there(services: Services) -> None:
    async with services.database() as connection:
        await outbox_table.connected(connection, services.settings().relay_slots)
