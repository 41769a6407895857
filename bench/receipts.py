"""What receipts cost: a row for each message, as before, or one for each confirmed batch (docs/decisions/0011), which
is told the ids of messages as text or as bytes (0018).
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import asyncpg

from app import migrate
from app.outbox.fingerprint import fingerprint
from app.settings import Settings
from bench.options import Options
from bench.results import Found, Measure, Table
from bench.services import Services
from relay import settlement, store
from relay.floor import Lane
from relay.outcomes import Delivered, OwedMessage

_MESSAGES = 20_000
_SIZED = 90_000
_CARRIED = 300_000

# The table and the settle of before.
_ROWS = """
    DROP TABLE IF EXISTS bench_receipts;
    CREATE TABLE bench_receipts (
        message_id uuid NOT NULL, topic text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL,
        created_at timestamptz NOT NULL, delivered_at timestamptz NOT NULL, fingerprint bigint NOT NULL, id bigint
    );
    CREATE INDEX ON bench_receipts (message_id);
    CREATE INDEX ON bench_receipts USING brin (delivered_at);
    TRUNCATE outbox_messages, outbox_receipt_batches;
"""
_SETTLE_ROWS = """
    WITH named AS MATERIALIZED (
        SELECT * FROM unnest(
            $1::text::smallint[], $2::text::bigint[], $3::text::integer[], $4::text::bigint[], $5::text::bigint[]
        ) AS n (lane, id, partition, "offset", fingerprint)
    ), gone AS (
        DELETE FROM outbox_messages WHERE lane = ANY (ARRAY(SELECT DISTINCT lane FROM named))
        AND id = ANY (ARRAY(SELECT id FROM named)) AND ((lane, id) IN (SELECT lane, id FROM named)) IS TRUE
        RETURNING lane, id, message_id, topic, created_at
    )
    INSERT INTO bench_receipts (message_id, topic, partition, "offset", created_at, delivered_at, fingerprint, id)
    SELECT message_id, topic, partition, "offset", created_at, (SELECT clock_timestamp()), fingerprint, id
    FROM gone FULL JOIN named USING (lane, id) WHERE coalesce(message_id IS NOT NULL, false)
"""
_FILL = """
    INSERT INTO outbox_messages (lane, topic, payload, type)
    SELECT 1, 'bench', convert_to(repeat('x', 300), 'UTF8'), 'bench' FROM generate_series(1, $1)
"""
_WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"

# Of settles with so many messages each, their ids made one after the other.
_MAKE = """
    INSERT INTO {table} (message_id, topic, partition, "offset", created_at, delivered_at, fingerprint, id)
    SELECT outbox_uuid7(), 'bench.topic', 1, n, clock_timestamp(), now() + n / $2::integer * interval '1 ms',
        hashtextextended(n::text, 0), n
    FROM generate_series(0, $1::integer - 1) AS n
"""
_MAKE_BATCHES = """
    INSERT INTO outbox_receipt_batches
        (topic, partition, "offset", delivered_at, span, message_ids, ids, created_at_us, fingerprints)
    SELECT topic, partition, min("offset"), delivered_at,
        outbox_message_id_range(min(message_id::text)::uuid, max(message_id::text)::uuid, '[]'),
        array_agg(message_id), array_agg(id), array_agg((extract(epoch FROM created_at) * 1000000)::bigint),
        array_agg(fingerprint)
    FROM bench_receipts GROUP BY topic, partition, delivered_at ORDER BY min("offset")
"""
_SIZE_ROWS = "SELECT pg_total_relation_size('bench_receipts')"
_SIZE_BATCHES = "SELECT pg_total_relation_size('outbox_receipt_batches_default')"

Settle: TypeAlias = Callable[[asyncpg.Connection, Sequence[Delivered]], Awaitable[None]]


async def run(services: Services, options: Options) -> list[Table]:
    return [await _settling(services, options), await _sizes(services), await _carrying(services)]


async def _rows(connection: asyncpg.Connection, batches: Sequence[Delivered]) -> None:
    each = [(m, batch.partition, n) for batch in batches for n, m in enumerate(batch.messages, batch.offset)]
    columns = (
        [m.lane for m, *_ in each],
        [m.id for m, *_ in each],
        [partition for _, partition, _ in each],
        [offset for *_, offset in each],
        [fingerprint(m) for m, *_ in each],
    )
    await connection.execute(_SETTLE_ROWS, *(f"{{{str(column)[1:-1]}}}" for column in columns))


class _IdsAsText:
    """A connection on which a settle tells the ids of messages as text."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def execute(self, statement: str, *values: object) -> str:
        given = (f"{{{','.join(each)}}}" if isinstance(each, tuple) else each for each in values)
        return str(await self._connection.execute(statement.replace("::uuid[]", "::text::uuid[]"), *given))


async def _settling(services: Services, options: Options) -> Table:
    """The settle alone, and its commit: 2,000 messages of one lane in batches of 300 (a backlog), and one message."""

    async def settle(using: Settings, connection: asyncpg.Connection, batches: Sequence[Delivered]) -> None:
        await settlement.settle(connection, settlement.Settlement(delivered=list(batches)), using)

    async def as_text(connection: asyncpg.Connection, batches: Sequence[Delivered]) -> None:
        await settle(usual, _IdsAsText(connection), batches)

    usual = services.settings()
    ways: dict[str, Settle] = {
        "a row a message": _rows,
        "a row a batch, ids as text": as_text,
        "a row a batch": partial(settle, usual),
        "none": partial(settle, services.settings(receipts=False)),
    }
    found = Found()
    connection = await store.connect(services.settings())
    for _ in range(options.rounds):
        for limit, messages in ((1, _MESSAGES // 40), (2000, _MESSAGES)):
            for way, one in ways.items():
                await connection.execute(_ROWS)
                await connection.execute(_FILL, messages)
                await connection.execute("CHECKPOINT")
                took = wal = cpu = 0.0
                settled = 0
                while batches := await _owed(connection, limit, settled):
                    before = await connection.fetchval(_WAL), services.postgres_cpu(), time.monotonic()
                    async with connection.transaction():
                        await one(connection, batches)
                    took += time.monotonic() - before[2]
                    cpu += services.postgres_cpu() - before[1]
                    wal += float(await connection.fetchval(_WAL) - before[0])
                    settled += sum(len(batch.messages) for batch in batches)
                columns = found[way]
                columns[f"µs a message, {limit:,} a settle"].append(took / settled * 1e6)
                if limit > 1:
                    columns[f"PostgreSQL µs, {limit:,}"].append(cpu / settled * 1e6)
                columns[f"WAL bytes, {limit:,}"].append(wal / settled)
    await connection.execute("DROP TABLE bench_receipts; TRUNCATE outbox_messages, outbox_receipt_batches")
    await connection.close()
    rows = found.rows()
    return Table("decisions: receipts", "Settling what the broker confirmed, and how its places are kept", rows)


async def _owed(connection: asyncpg.Connection, limit: int, offset: int) -> list[Delivered]:
    """The next messages, confirmed in batches of 300."""
    lane = Lane(1, floor=0, seen=0, mark=None, mark_xid=None, has_parked=False, xid=0)
    messages: Sequence[OwedMessage] = (await store.fetch(connection, [lane], messages=limit, size=1 << 30)).messages
    return [Delivered(messages[n : n + 300], n // 300, offset) for n in range(0, len(messages), 300)]


async def _sizes(services: Services) -> Table:
    """Bytes that a receipt takes on disk, with its indexes, by the size of the batches that were confirmed."""
    rows: dict[str, dict[str, Measure]] = {"a row a message": {}, "a row a batch": {}}
    async with services.database() as connection:
        for size in (1, 10, 300):
            await connection.execute(_ROWS)
            await connection.execute(_MAKE.format(table="bench_receipts"), _SIZED, size)
            await connection.execute(_MAKE_BATCHES)
            for way, read in (("a row a message", _SIZE_ROWS), ("a row a batch", _SIZE_BATCHES)):
                rows[way][f"bytes a message, batches of {size}"] = Measure((await connection.fetchval(read) / _SIZED,))
        await connection.execute("DROP TABLE bench_receipts; TRUNCATE outbox_receipt_batches")
    return Table("decisions: size of receipts", f"{_SIZED:,} receipts, table and indexes", rows)


async def _carrying(services: Services) -> Table:
    """How long the migration takes, in which settles wait."""
    rows: dict[str, dict[str, Measure]] = {}
    for size in (1, 10, 300):
        await migrate.downgrade(services.database_url, "engine_0004")
        async with services.database() as connection:
            await connection.execute("TRUNCATE outbox_receipts")
            await connection.execute(_MAKE.format(table="outbox_receipts"), _CARRIED, size)
        started = time.monotonic()
        await migrate.upgrade(services.database_url)
        took = time.monotonic() - started
        rows[f"batches of {size}"] = {"µs a receipt": Measure((took / _CARRIED * 1e6,))}
    async with services.database() as connection:
        await connection.execute("TRUNCATE outbox_receipt_batches")
    return Table("decisions: receipts carried over", f"The migration of {_CARRIED:,} receipts to batches", rows)
