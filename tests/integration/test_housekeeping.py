"""What a relay's housekeeping does now and then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from app import metrics
from app.settings import Settings
from relay import housekeeping, store
from tests.engine import Broker, assess, connect, empty, engine, settings
from tests.failpoints import Action, Fault, armed
from tests.ledger import Ledger
from tests.services.postgres_server import PostgresServer
from tests.waiting import until

_DEAD_LETTER = """
    INSERT INTO outbox_dead_letters
        (lane, id, message_id, topic, key, headers, type, created_at, state, reason, decided_at, decision_reason,
        returning_at)
    VALUES (0, $1, gen_random_uuid(), 't', 'k', '{}', 't', clock_timestamp(), $2, 'TEST', $3, 'test', $4)
"""


async def _do(connection: asyncpg.Connection, name: str, using: Settings) -> None:
    (task,) = [task for task in housekeeping._tasks(using) if task.name == name]
    await housekeeping._do(connection, task, using)


@asynccontextmanager
async def _housekeeping(using: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(housekeeping.run(using, stop))
    yield
    stop.set()
    await task


async def test_a_relay_that_freezes_while_it_makes_partitions_does_not_keep_others_from_settling(
    database_url: str,
) -> None:
    broker = Broker()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        with armed(Fault("relay.housekeeping_before_commit", Action.SLEEP, seconds=30)) as arming:
            housekeeper = asyncio.create_task(housekeeping.run(settings(database_url), asyncio.Event()))
            await arming.struck.wait()
            async with engine(database_url, broker):
                await ledger.fill("t", messages=20, keys=20)
                await empty(database_url, timedelta(seconds=25))
        assert not housekeeper.done(), "it came round before the others could settle"
        housekeeper.cancel()
        await asyncio.wait({housekeeper})
    await assess(database_url, broker, ledger.messages)


async def test_a_message_below_its_floor_is_told_of_and_delivered(database_url: str) -> None:
    broker = Broker()
    found = metrics.below_floor._value.get()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        await ledger.fill("t", messages=20, keys=20)
        await connection.execute("UPDATE outbox_lanes SET floor = 10, seen = 15, mark = 12, mark_xid = '3'")
        async with engine(database_url, broker, relay_scan_interval=0.1):
            await empty(database_url)
    assert metrics.below_floor._value.get() - found == sum(message.id <= 10 for message in ledger.messages)
    assert len(broker.records) == 20
    await assess(database_url, broker, ledger.messages)


async def test_the_lowered_floor_is_below_the_message_and_its_mark_is_gone(database_url: str) -> None:
    async with connect(database_url) as connection:
        (message,) = await Ledger(connection).add("t", [(b"key", b"")])
        await connection.execute("UPDATE outbox_lanes SET floor = 10, seen = 15, mark = 12, mark_xid = '3'")
        await _do(connection, "check_floors", settings(database_url))
        rows = await connection.fetch("SELECT lane = outbox_bucket('key') & 31, floor, seen, mark FROM outbox_lanes")
        assert {tuple(row) for row in rows} == {(False, 10, 15, 12), (True, message.id - 1, message.id - 1, None)}


async def test_only_old_decided_dead_letters_behind_which_nobody_waits_are_purged(database_url: str) -> None:
    using = settings(database_url)
    async with connect(database_url) as connection:
        now = await connection.fetchval("SELECT clock_timestamp()")
        old, young = now - using.dead_letters_retention - timedelta(hours=1), now - timedelta(days=1)
        for number, (state, decided_at, returning_at) in enumerate(
            [
                ("dead", None, None),
                ("retried", old, None),
                ("discarded", old, None),
                ("discarded", young, None),
                ("discarded", old, old),
            ]
        ):
            await connection.execute(_DEAD_LETTER, number, state, decided_at, returning_at)
        await _do(connection, "purge_dead_letters", using)
        left = await connection.fetch("SELECT id FROM outbox_dead_letters ORDER BY id")
        assert [row[0] for row in left] == [0, 3, 4]


async def test_sessions_of_relays_with_too_old_transactions_are_ended_and_no_others(
    postgres: PostgresServer, database_url: str, empty_database_url: str
) -> None:
    using = settings(database_url).model_copy(update={"relay_transaction_limit": timedelta(seconds=0.2)})
    names = {"zombie": "outbox-relay", "api": "outbox-api"}
    async with (
        connect(database_url, application_name=names["zombie"]) as zombie,
        connect(database_url, application_name=names["zombie"]) as idle,
        connect(database_url, application_name=names["api"]) as api,
        connect(empty_database_url, application_name=names["zombie"]) as elsewhere,
    ):
        for connection in (zombie, api, elsewhere):
            await connection.execute("BEGIN")

        async def ended() -> bool:
            return bool(zombie.is_closed())

        async with _housekeeping(using):
            await until(ended)
        for connection in (idle, api, elsewhere):
            assert await connection.fetchval("SELECT 1") == 1


async def test_receipts_are_rolled_at_the_start(database_url: str) -> None:
    async with connect(database_url) as connection, _housekeeping(settings(database_url)):
        query = "SELECT count(*) = 9 FROM pg_inherits WHERE inhparent = 'outbox_receipt_batches'::regclass"
        await until(lambda: connection.fetchval(query))


@pytest.mark.parametrize("lock", ["outbox_lanes", "outbox_dead_letters"])
async def test_what_is_locked_can_wait(database_url: str, lock: str) -> None:
    """A lock that is not free postpones a task, and the others are done."""
    task = {"outbox_lanes": "check_floors", "outbox_dead_letters": "purge_dead_letters"}[lock]
    using = settings(database_url)
    async with connect(database_url) as holder, connect(database_url, lock_timeout="100") as connection:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {lock}")
            await _do(connection, task, using)
        await _do(connection, task, using)


async def test_one_relay_at_a_time(database_url: str) -> None:
    """A relay that does not get the turn leaves the task to the one that has it."""
    using = settings(database_url)
    query = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox_receipt_batches'::regclass"
    async with connect(database_url) as holder, connect(database_url) as connection:
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock($1, 1)", housekeeping._LOCK_NAMESPACE)
            await _do(connection, "roll_receipts", using)
            assert await connection.fetchval(query) == 1
        await _do(connection, "roll_receipts", using)
        assert await connection.fetchval(query) == 9


async def test_gauges(database_url: str) -> None:
    async with connect(database_url) as connection, connect(database_url) as other:
        ledger = Ledger(connection)
        await ledger.fill("t", messages=7)
        await connection.execute("INSERT INTO outbox_topics (topic, paused_at) VALUES ('t', now()), ('u', NULL)")
        await connection.execute(_DEAD_LETTER, 1, "dead", None, None)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT pg_current_xact_id()")
        using = settings(database_url)
        for name in ("watch", "count"):
            await _do(connection, name, using)
        await transaction.rollback()
    assert metrics.owed.labels("t")._value.get() == 7
    assert metrics.dead_letters.labels("t")._value.get() == 1
    assert metrics.oldest_owed._value.get() > 0
    assert metrics.floor_stalled._value.get() > 0
    assert (metrics.topic_open.labels("t")._value.get(), metrics.topic_open.labels("u")._value.get()) == (0, 1)


async def test_rows_that_a_held_snapshot_keeps_are_counted(database_url: str) -> None:
    async with connect(database_url) as connection, connect(database_url) as reader:
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            await reader.fetchval("SELECT count(*) FROM outbox_messages")
            await Ledger(connection).fill("t", messages=70)
            await connection.execute("DELETE FROM outbox_messages")
            await connection.fetchval("SELECT pg_stat_force_next_flush()")
            await connection.execute("VACUUM outbox_messages")
            await _do(connection, "watch", settings(database_url))
            assert metrics.dead_rows._value.get() == 70
        await connection.execute("VACUUM outbox_messages")
        await _do(connection, "watch", settings(database_url))
    assert metrics.dead_rows._value.get() == 0


async def test_its_connection_is_not_taken_for_a_slot(database_url: str) -> None:
    names = """
        SELECT array_agg(application_name) FROM pg_stat_activity
        WHERE application_name LIKE 'outbox-%' AND datname = current_database()
    """
    async with connect(database_url) as connection, _housekeeping(settings(database_url)):
        seen = await until(lambda: connection.fetchval(names))
    assert seen == ["outbox-relay-housekeeping"]
    assert f"outbox-{store.ROLE}" not in seen
