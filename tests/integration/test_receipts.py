"""What the broker confirmed, by days."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.audit import known
from app.outbox import whereabouts
from app.outbox.fingerprint import fingerprint
from relay import store
from relay.outcomes import Delivered, OwedMessage
from relay.settlement import Settlement, settle
from relay.statements import FEW
from tests.engine import Broker, assess, connect, empty, engine, settings, slot_session
from tests.ledger import Ledger
from tests.waiting import until
from tests.writers import sessions_on

_RECEIPT = """
    INSERT INTO outbox_receipts (message_id, topic, partition, "offset", created_at, delivered_at, fingerprint)
    VALUES (gen_random_uuid(), 't', 0, 0, $1, $1, 0)
"""
_PARTITIONS = """
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'outbox_receipt_batches'::regclass ORDER BY relname
"""


def _name(day: datetime) -> str:
    return f"outbox_receipt_batches_{day:%Y%m%d}"


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
        assert await _partitions(connection) == [*days, "outbox_receipt_batches_default"]
        assert (
            await connection.fetchval("SELECT tableoid::regclass::text FROM outbox_receipt_batches LIMIT 1") == days[0]
        )
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipt_batches_default") == 1


async def test_partitions_are_dropped_when_all_of_them_is_older_than_the_retention(database_url: str) -> None:
    now = datetime.now(UTC)
    async with connect(database_url) as connection:
        for age in (6, 8, 9):
            day = (now - timedelta(days=age)).replace(hour=0, minute=0, second=0, microsecond=0)
            await connection.execute(
                f"CREATE TABLE {_name(day)} PARTITION OF outbox_receipt_batches "
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
        assert await slot.fetchval("SELECT count(*) FROM outbox_receipt_batches_default") == 0
        assert await slot.fetchval("SELECT count(*) FROM outbox_receipts") == 2


async def test_each_message_has_one_receipt_that_names_its_record(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection, engine(database_url, broker):
        ledger = Ledger(connection)
        await ledger.fill("t", messages=500, keys=20)
        await ledger.add("t", [(b"tombstone", None), (b"", b""), (None, b"no key"), (b"k", b"")])
        await empty(database_url)
    await assess(database_url, broker, ledger.messages)


@pytest.mark.parametrize("number", [1, 2, 1000])
async def test_ids_arrive_as_they_were_given(slot: asyncpg.Connection, number: int) -> None:
    ids = [str(uuid4()) for _ in range(number)]
    assert await slot.fetchval("SELECT $1::uuid[]::text[]", ids) == ids


async def test_receipts_can_be_switched_off(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection, engine(database_url, broker, receipts=False):
        messages = await Ledger(connection).fill("t", messages=100)
        await empty(database_url)
        assert len(broker.records) == len(messages)
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipts") == 0


async def _fetch_and_settle(
    slot: asyncpg.Connection, confirm: Callable[[list[OwedMessage]], list[Delivered]], **overrides: object
) -> list[OwedMessage]:
    """One round of a slot in which the broker confirms these; all that was fetched."""
    using = settings("postgresql://", **overrides)
    async with slot.transaction():
        lanes = await store.claim(slot, range(32), limit=32)
        messages = (await store.fetch(slot, lanes, messages=2000, size=1_000_000)).messages
        await settle(slot, Settlement(delivered=confirm(messages)), using)
    return messages


@pytest.fixture
async def slot(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with slot_session(database_url) as connection:
        yield connection


async def test_a_confirmed_batch_is_a_row_and_each_message_has_its_own_line(
    database_url: str, slot: asyncpg.Connection
) -> None:
    async with connect(database_url) as connection:
        await Ledger(connection).fill("t", messages=300, keys=20)
        before = await connection.fetch("SELECT message_id, created_at, id FROM outbox_messages ORDER BY id")
        kept = await _fetch_and_settle(slot, lambda owed: [Delivered(owed[:200], 1, 70), Delivered(owed[200:], 2, 0)])
        batches = await connection.fetch(
            'SELECT topic, partition, "offset", cardinality(ids), lower(span), upper(span), delivered_at '
            "FROM outbox_receipt_batches ORDER BY partition"
        )
        spans = [sorted(UUID(each.message_id) for each in part) for part in (kept[:200], kept[200:])]
        assert [tuple(row)[:6] for row in batches] == [
            ("t", 1, 70, 200, spans[0][0], spans[0][-1]),
            ("t", 2, 0, 100, spans[1][0], spans[1][-1]),
        ]
        moment = batches[0]["delivered_at"]
        receipts = await connection.fetch("SELECT * FROM outbox_receipts ORDER BY id")
    assert batches[1]["delivered_at"] == moment
    assert [(row["message_id"], row["created_at"], row["id"]) for row in receipts] == [tuple(row) for row in before]
    places = {each.id: (1, 70 + n) if n < 200 else (2, n - 200) for n, each in enumerate(kept)}
    prints = {each.id: fingerprint(each) for each in kept}
    for row in receipts:
        assert (row["partition"], row["offset"]) == places[row["id"]]
        assert (row["topic"], row["fingerprint"], row["delivered_at"]) == ("t", prints[row["id"]], moment)


@pytest.mark.parametrize("messages", [FEW, FEW + 1])
async def test_many_batches_and_few_or_many_messages(
    database_url: str, slot: asyncpg.Connection, messages: int
) -> None:
    async with connect(database_url) as connection:
        await Ledger(connection).fill("t", messages=messages, keys=20)
        await _fetch_and_settle(slot, lambda owed: [Delivered(owed[n::50], n, 7) for n in range(50)])
        assert await connection.fetchval("SELECT count(*) FROM outbox_messages") == 0
        found = await connection.fetch('SELECT partition, "offset" FROM outbox_receipts ORDER BY partition, "offset"')
    numbers = range(messages)
    assert [tuple(row) for row in found] == sorted((number % 50, 7 + number // 50) for number in numbers)


async def test_a_message_that_lies_where_another_was_seen_stays(database_url: str, slot: asyncpg.Connection) -> None:
    """Nobody else removes rows of a claimed lane; but if somebody does, a new row may get the place of one."""
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        await ledger.fill("t", messages=3, keys=1)

        def confirm(owed: list[OwedMessage]) -> list[Delivered]:
            gone, other, confirmed = owed
            return [Delivered([gone._replace(row=other.row), confirmed], 0, 0)]

        with capture_logs() as logs:
            await _fetch_and_settle(slot, confirm)
        left = await connection.fetch("SELECT id FROM outbox_messages ORDER BY id")
    assert [number for (number,) in left] == [ledger.messages[0].id, ledger.messages[1].id]
    assert [(each["event"], each["expected"], each["deleted"]) for each in logs] == [("settle.rows_missing", 2, 1)]


@pytest.mark.parametrize("receipts", [True, False])
async def test_parked_messages_and_others_are_settled_together(
    database_url: str, slot: asyncpg.Connection, receipts: bool
) -> None:
    def confirm(owed: list[OwedMessage]) -> list[Delivered]:
        told = [each._replace(behind=0) if each.id in parked else each for each in owed]
        return [Delivered(told[:7], 1, 70), Delivered(told[7:9], 2, 0)]

    async with connect(database_url) as connection:
        await Ledger(connection).fill("t", messages=10, keys=1)
        ids = [number for (number,) in await connection.fetch("SELECT id FROM outbox_messages ORDER BY id")]
        parked = set(ids[1:9:2])
        async with slot.transaction():
            lanes = await store.claim(slot, range(32), limit=32)
            owed = (await store.fetch(slot, lanes, messages=2000, size=1_000_000)).messages
            await connection.execute(
                "WITH moved AS (DELETE FROM outbox_messages WHERE id = ANY ($1) RETURNING *) INSERT INTO outbox_parked "
                "(lane, id, message_id, topic, key, headers, payload, type, created_at) SELECT * FROM moved",
                parked,
            )
            await settle(slot, Settlement(delivered=confirm(owed)), settings("postgresql://", receipts=receipts))
        left = await connection.fetch("SELECT id FROM outbox_messages UNION ALL SELECT id FROM outbox_parked")
        assert [number for (number,) in left] == ids[9:]
        kept = await connection.fetch('SELECT id, message_id, partition, "offset" FROM outbox_receipts ORDER BY id')
        places = [(1, 70 + n) for n in range(7)] + [(2, n) for n in range(2)]
        expected = [(each.id, UUID(each.message_id), *place) for each, place in zip(owed, places, strict=False)]
        assert [tuple(row) for row in kept] == (expected if receipts else [])


async def test_each_message_of_a_batch_is_found(database_url: str, slot: asyncpg.Connection) -> None:
    async with connect(database_url) as connection, sessions_on(database_url, 1) as sessions:
        await Ledger(connection).fill("t", messages=30, keys=20)
        before = dict(await connection.fetch("SELECT message_id, created_at FROM outbox_messages"))
        kept = await _fetch_and_settle(slot, lambda owed: [Delivered(owed[:20], 1, 70), Delivered(owed[20:], 2, 0)])
        places = {UUID(each.message_id): (1, 70 + n) if n < 20 else (2, n - 20) for n, each in enumerate(kept)}
        audited = await known.find(connection, [each.message_id for each in kept])
        for message_id, place in places.items():
            async with sessions() as session:
                found = await whereabouts.find(session, message_id)
            assert isinstance(found, whereabouts.Delivered)
            assert (found.partition, found.offset, found.created_at) == (*place, before[message_id])
            (receipt,) = audited[str(message_id)].places
            assert (receipt.partition, receipt.offset) == place
            assert audited[str(message_id)].created_at == before[message_id]
    assert [audited[each.message_id].id for each in kept] == [each.id for each in kept]


@pytest.mark.parametrize("receipts", [True, False])
async def test_an_id_alone_names_no_row_of_another_lane(
    database_url: str, slot: asyncpg.Connection, receipts: bool
) -> None:
    async with connect(database_url) as connection:
        await connection.execute(
            "INSERT INTO outbox_messages (lane, id, topic, type) SELECT lane, id, 't', 't' "
            "FROM generate_series(1, 3) AS lane, generate_series(10, 11) AS id"
        )

        async def left(*confirmed: tuple[int, int]) -> list[tuple[int, int]]:
            def confirm(owed: list[OwedMessage]) -> list[Delivered]:
                return [Delivered([each for each in owed if (each.lane, each.id) in confirmed], 0, 0)]

            await _fetch_and_settle(slot, confirm, receipts=receipts)
            return [tuple(row) for row in await connection.fetch("SELECT lane, id FROM outbox_messages ORDER BY 1, 2")]

        assert await left((1, 10), (2, 11)) == [(1, 11), (2, 10), (3, 10), (3, 11)]
        assert await left((1, 11)) == [(2, 10), (3, 10), (3, 11)]


async def test_a_receipt_says_what_was_confirmed_whoever_removed_the_row(
    database_url: str, slot: asyncpg.Connection
) -> None:
    async with connect(database_url) as connection:
        await Ledger(connection).fill("t", messages=3, keys=1)
        with capture_logs() as logs:
            async with slot.transaction():
                lanes = await store.claim(slot, range(32), limit=32)
                owed = (await store.fetch(slot, lanes, messages=9, size=1_000_000)).messages
                await connection.execute("DELETE FROM outbox_messages WHERE id = $1", owed[1].id)
                await settle(slot, Settlement(delivered=[Delivered(owed, 0, 5)]), settings(database_url))
        assert [(entry["event"], entry["expected"], entry["deleted"]) for entry in logs] == [
            ("settle.rows_missing", 3, 2)
        ]
        rows = await connection.fetch('SELECT message_id, "offset" FROM outbox_receipts ORDER BY "offset"')
    assert [tuple(row) for row in rows] == [(UUID(each.message_id), 5 + n) for n, each in enumerate(owed)]


async def test_a_moment_that_no_clock_tells_does_not_stop_a_lane(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection, engine(database_url, broker):
        for moment in ("infinity", "-infinity", "20000-01-01"):
            await connection.execute(
                "INSERT INTO outbox_messages (topic, type, created_at) VALUES ('t', 't', $1::text::timestamptz)", moment
            )
        await empty(database_url)
        rows = await connection.fetch("SELECT created_at::text FROM outbox_receipts ORDER BY id")
    last = "9999-12-31 00:00:00+00"
    assert [row[0] for row in rows] == [last, "0001-01-01 00:00:00+00", last]


async def test_a_receipt_may_be_inserted_alone(database_url: str) -> None:
    """As a relay of before batches does it."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    receipts = [(uuid4(), "t", 3, n, moment - timedelta(microseconds=n), moment, n - 1, n or None) for n in range(3)]
    async with connect(database_url) as connection:
        await connection.executemany(
            'INSERT INTO outbox_receipts (message_id, topic, partition, "offset", created_at, delivered_at, '
            "fingerprint, id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            receipts,
        )
        rows = await connection.fetch('SELECT * FROM outbox_receipts ORDER BY "offset"')
        assert [tuple(row) for row in rows] == receipts
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipt_batches") == 3
