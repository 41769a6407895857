"""What the broker confirmed, by days."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import Ledger
from tests.waiting import until

_RECEIPT = """
    INSERT INTO outbox_receipts (message_id, topic, partition, "offset", created_at, delivered_at, fingerprint)
    VALUES (gen_random_uuid(), 't', 0, 0, $1, $1, 0)
"""
_PARTITIONS = """
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'outbox_receipts'::regclass ORDER BY relname
"""


def _name(day: datetime) -> str:
    return f"outbox_receipts_{day:%Y%m%d}"


async def _partitions(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(_PARTITIONS)]


async def _roll(connection: asyncpg.Connection, retention: timedelta = timedelta(days=7)) -> None:
    await connection.execute("SELECT outbox_roll_receipts($1)", retention)


async def test_partitions_are_made_ahead_and_take_over_what_came_before_them(database_url: str) -> None:
    now = datetime.now(UTC)
    async with connect(database_url, timezone="Pacific/Auckland") as connection:  # days are days of UTC everywhere
        await connection.execute(_RECEIPT, now)
        await connection.execute(_RECEIPT, now + timedelta(days=30))
        await _roll(connection)
        await _roll(connection)  # safe to repeat
        days = [_name(now + timedelta(days=number)) for number in range(8)]
        assert await _partitions(connection) == [*days, "outbox_receipts_default"]
        assert await connection.fetchval("SELECT tableoid::regclass::text FROM outbox_receipts LIMIT 1") == days[0]
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipts_default") == 1


async def test_partitions_are_dropped_when_all_of_them_is_older_than_the_retention(database_url: str) -> None:
    now = datetime.now(UTC)
    async with connect(database_url) as connection:
        for age in (6, 8, 9):
            day = (now - timedelta(days=age)).replace(hour=0, minute=0, second=0, microsecond=0)
            await connection.execute(
                f"CREATE TABLE {_name(day)} PARTITION OF outbox_receipts "
                f"FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
            )
            await connection.execute(_RECEIPT, day)
        await _roll(connection)
        left = await _partitions(connection)
        assert _name(now - timedelta(days=6)) in left
        assert not {_name(now - timedelta(days=8)), _name(now - timedelta(days=9))} & set(left)
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipts") == 1


async def test_a_settle_waits_while_its_partition_is_made(database_url: str) -> None:
    async with connect(database_url) as keeper, connect(database_url) as slot:
        await slot.execute("SET plan_cache_mode = force_generic_plan")
        statement = await slot.prepare(_RECEIPT)
        await statement.fetch(datetime.now(UTC))  # planned and run before, as a slot's are
        transaction = keeper.transaction()
        await transaction.start()
        await _roll(keeper)
        settle = asyncio.create_task(statement.fetch(datetime.now(UTC)))

        async def waiting() -> bool:
            return bool(await keeper.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(waiting)
        await transaction.commit()
        await settle
        assert await slot.fetchval("SELECT count(*) FROM outbox_receipts_default") == 0
        assert await slot.fetchval("SELECT count(*) FROM outbox_receipts") == 2


async def test_each_message_has_one_receipt_that_names_its_record(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection, engine(database_url, broker):
        ledger = Ledger(connection)
        await ledger.fill("t", messages=500, keys=20)
        await ledger.add("t", [(b"tombstone", None), (b"", b""), (None, b"no key"), (b"k", b"")])
        await empty(database_url)
    await assess(database_url, broker, ledger.messages)


async def test_receipts_can_be_switched_off(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection, engine(database_url, broker, receipts=False):
        messages = await Ledger(connection).fill("t", messages=100)
        await empty(database_url)
        assert len(broker.records) == len(messages)
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipts") == 0
