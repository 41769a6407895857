"""What the decisions cost, against what was decided against (docs/decisions); on PostgreSQL alone, without Kafka."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from bench import checks, light, publishing, receipts
from bench.options import Options
from bench.results import Found, Measure, Table
from bench.services import Services

_MESSAGES = 20_000
_BATCH = 2_000

_SCHEMA = """
    DROP TABLE IF EXISTS bench_lanes, bench_messages;
    CREATE TABLE bench_lanes (lane integer PRIMARY KEY, floor bigint NOT NULL DEFAULT 0, owner text,
        epoch bigint NOT NULL DEFAULT 0, leased_until timestamptz) WITH (fillfactor = 50);
    INSERT INTO bench_lanes SELECT generate_series(0, 31);
    CREATE TABLE bench_messages (lane integer NOT NULL, id bigint NOT NULL, payload bytea NOT NULL,
        processed_at timestamptz, PRIMARY KEY (lane, id));
    CREATE INDEX bench_unprocessed ON bench_messages (lane, id) WHERE processed_at IS NULL;
"""
_FILL = (
    "INSERT INTO bench_messages SELECT i % 32, i, convert_to(repeat('x', 300), 'UTF8') FROM generate_series(1, $1) i"
)

_LOCK = "SELECT lane FROM bench_lanes WHERE lane = $1 FOR UPDATE SKIP LOCKED"
_LEASE = """
    UPDATE bench_lanes SET owner = 'one', epoch = epoch + 1, leased_until = clock_timestamp() + interval '30 s'
    WHERE lane = $1 AND (leased_until IS NULL OR leased_until < clock_timestamp()) RETURNING epoch
"""
_STILL_MINE = "SELECT 1 FROM bench_lanes WHERE lane = $1 AND epoch = $2 FOR UPDATE"
_RELEASE = "UPDATE bench_lanes SET owner = NULL, leased_until = NULL WHERE lane = $1"
_FETCH = "SELECT id, payload FROM bench_messages WHERE lane = $1 AND processed_at IS NULL ORDER BY id LIMIT $2"
_ALL = "SELECT lane, id, payload, processed_at FROM bench_messages ORDER BY lane, id LIMIT $1"
_DELETE = "DELETE FROM bench_messages WHERE lane = $1 AND id = ANY($2::bigint[])"
_MARK = "UPDATE bench_messages SET processed_at = clock_timestamp() WHERE lane = $1 AND id = ANY($2::bigint[])"

_WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
_INSERT = """
    INSERT INTO outbox_messages (lane, topic, key, payload, type)
    VALUES (outbox_bucket($1::bytea) & 31, 'bench', $1::bytea, $2, 'bench')
"""
_ADD = "SELECT outbox_add('bench', $1::bytea, $2::bytea)"


async def run(services: Services, options: Options) -> list[Table]:
    return [
        await _settling(
            services,
            options,
            "lease",
            "One round of a slot, claim to commit, without the publishing: who holds the lane, and how",
            {"the lane's row lock": _locked, "a lease with an epoch": _leased},
        ),
        await _settling(
            services,
            options,
            "delivered",
            "One round of a slot, without the publishing: what becomes of a delivered message",
            {"its row is deleted": _locked, "its row is marked": _marked},
        ),
        await _key_locks(services, options),
        await _drivers(services, options),
        *await receipts.run(services, options),
        *await checks.run(services, options),
        *await light.run(services, options),
        *await publishing.run(services, options),
    ]


async def _locked(connection: asyncpg.Connection, lane: int, limit: int) -> int:
    async with connection.transaction():
        await connection.fetchval(_LOCK, lane)
        rows = await connection.fetch(_FETCH, lane, limit)
        await connection.execute(_DELETE, lane, [row["id"] for row in rows])
    return len(rows)


async def _leased(connection: asyncpg.Connection, lane: int, limit: int) -> int:
    epoch = await connection.fetchval(_LEASE, lane)
    rows = await connection.fetch(_FETCH, lane, limit)
    async with connection.transaction():
        if not await connection.fetchval(_STILL_MINE, lane, epoch):
            raise RuntimeError("nobody else takes leases here")
        await connection.execute(_DELETE, lane, [row["id"] for row in rows])
        await connection.execute(_RELEASE, lane)
    return len(rows)


async def _marked(connection: asyncpg.Connection, lane: int, limit: int) -> int:
    async with connection.transaction():
        await connection.fetchval(_LOCK, lane)
        rows = await connection.fetch(_FETCH, lane, limit)
        await connection.execute(_MARK, lane, [row["id"] for row in rows])
    return len(rows)


Round: TypeAlias = Callable[[asyncpg.Connection, int, int], Awaitable[int]]


async def _settling(services: Services, options: Options, name: str, title: str, ways: dict[str, Round]) -> Table:
    """Empty a table in rounds of 1 (light traffic) and of 500 (a backlog), each way in turn."""
    found = Found()
    async with services.database() as connection:
        for _ in range(options.rounds):
            for way, one_round in ways.items():
                for limit, messages in ((1, _MESSAGES // 20), (500, _MESSAGES)):
                    await connection.execute(_SCHEMA)
                    await connection.execute(_FILL, messages)
                    await connection.execute("CHECKPOINT")
                    await one_round(connection, 0, limit)  # prepares the statements
                    wal, cpu, started = await connection.fetchval(_WAL), services.postgres_cpu(), time.monotonic()
                    settled = lane = 0
                    while done := await one_round(connection, lane % 32, limit):
                        settled, lane = settled + done, lane + 1
                    took = time.monotonic() - started
                    columns = found[way]
                    columns[f"µs a message, {limit} a round"].append(took / settled * 1e6)
                    columns[f"PostgreSQL µs, {limit}"].append((services.postgres_cpu() - cpu) / settled * 1e6)
                    columns[f"WAL bytes, {limit}"].append(float(await connection.fetchval(_WAL) - wal) / settled)
        await connection.execute("DROP TABLE bench_lanes, bench_messages")
    rows = found.rows()
    return Table(f"decisions: {name}", title, rows)


async def _key_locks(services: Services, options: Options) -> Table:
    """Eight writers, a transaction a message: with the key's lock (`outbox_add`), and as a plain INSERT."""
    ways = {"with the key's lock": _ADD, "without": _INSERT}
    found = Found()
    for _ in range(options.rounds):
        for way, statement in ways.items():
            for keys, column in ((10_000, "µs a message, own keys"), (1, "µs a message, one hot key")):
                found[way][column].append(await _write(services, statement, keys))
    rows = found.rows()
    return Table("decisions: key lock", "Writing a message, eight writers at once: time a message of one writer", rows)


async def _write(services: Services, statement: str, keys: int, *, writers: int = 8, each: int = 500) -> float:
    async def writer(number: int) -> float:
        async with services.database() as connection:
            prepared = await connection.prepare(statement)
            started = time.monotonic()
            for i in range(each):
                await prepared.fetchval(b"key-%d" % ((number * each + i) % keys), b"x" * 300)
            return (time.monotonic() - started) / each * 1e6

    times = await asyncio.gather(*map(writer, range(writers)))
    async with services.database() as connection:
        await connection.execute("TRUNCATE outbox_messages")
    return sum(times) / len(times)


async def _drivers(services: Services, options: Options) -> Table:
    """CPU of this process for fetching what a slot fetches under pressure: 2,000 messages at a time."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    engine = create_async_engine(make_url(services.database_url).set(drivername="postgresql+asyncpg"))
    statement = text(_ALL.replace("$1", ":messages"))
    async with services.database() as connection, engine.connect() as core:
        await core.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(_SCHEMA)
        await connection.execute(_FILL, _MESSAGES)

        async def by_asyncpg() -> int:
            return len(await connection.fetch(_ALL, _BATCH))

        async def by_sqlalchemy() -> int:
            return len((await core.execute(statement, {"messages": _BATCH})).all())

        for _ in range(options.rounds * 3):
            for way, fetch in {"asyncpg": by_asyncpg, "SQLAlchemy": by_sqlalchemy}.items():
                started = time.process_time()
                fetched = sum([await fetch() for _ in range(10)])
                found[way].append((time.process_time() - started) / fetched * 1e6)
        await connection.execute("DROP TABLE bench_lanes, bench_messages")
    await engine.dispose()
    rows = {way: {"client CPU µs a message": Measure(tuple(values))} for way, values in found.items()}
    return Table("decisions: driver", "Fetching 2,000 messages of 300 bytes at a time", rows)
