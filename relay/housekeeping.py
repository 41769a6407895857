"""What has to be done now and then, by any relay: partitions, retention, zombies, the check of the floors, gauges.

Each task is safe at the same time in several relays: those that change something take an advisory lock, and a relay
that does not get it leaves the task to the one that has it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from app import db, failpoints, log, metrics
from app.lifecycle import wait
from app.outbox.ages import OLDEST_OWED, OLDEST_TRANSACTION
from app.settings import Settings
from relay import store

logger = log.get(__name__)

_IDLE = timedelta(seconds=5)
"""When a relay freezes in the middle of a task, what the task has locked is free again after this."""
_LOCK_NAMESPACE = 1869968500
_PURGE_BATCH = 1000
_PURGE_KEYS_BATCH = 20_000  # more in half a minute than one process of the API can write

# One relay at a time does a task that changes something.
_TURN = "SELECT pg_try_advisory_xact_lock($1, $2)"

# Ends relays' sessions whose transaction is too old by the database's clock: a frozen relay to which the server still
# sends is stopped by no time-out of PostgreSQL (on a Unix socket not even by TCP's). Only our own database and role.
_END_ZOMBIES = """
    SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = $1
        AND xact_start < clock_timestamp() - $2::interval
"""

_ROLL_RECEIPTS = "SELECT outbox_roll_receipts($1::interval)"

# Decided dead letters, long ago, behind which nobody waits any more.
_PURGE_DEAD_LETTERS = """
    DELETE FROM outbox_dead_letters WHERE (lane, id) IN (
        SELECT lane, id FROM outbox_dead_letters
        WHERE decided_at < clock_timestamp() - $1::interval AND returning_at IS NULL LIMIT $2
    )
"""

# Answers whose time is over; an expired one is as good as none to the API, so when this runs does not matter.
_PURGE_IDEMPOTENCY_KEYS = """
    DELETE FROM idempotency_keys WHERE (scope, key) IN (
        SELECT scope, key FROM idempotency_keys WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT $1
    ) AND expires_at <= clock_timestamp()
"""

# There must be none. A hit is a bug of the floor's rule, or a hand that wrote ids: the floor goes below it, so that
# it is delivered, and somebody is told.
_BELOW_FLOOR = """
    SELECT l.lane, min(m.id) AS first, count(*) AS messages
    FROM outbox_lanes AS l JOIN outbox_messages AS m ON m.lane = l.lane AND m.id <= l.floor
    GROUP BY l.lane ORDER BY l.lane
"""
_LOWER_FLOOR = """
    UPDATE outbox_lanes SET floor = least(floor, $2 - 1), mark = NULL, mark_xid = NULL, seen = least(seen, $2 - 1)
    WHERE lane = $1
"""

_OWED = """
    SELECT m.topic, count(*) FROM outbox_lanes AS l
    JOIN outbox_messages AS m ON m.lane = l.lane AND m.id > l.floor GROUP BY m.topic
"""
_PARKED = "SELECT topic, count(*) FROM outbox_parked GROUP BY topic"
_DEAD_LETTERS = """
    SELECT topic, count(*), count(DISTINCT key) FROM outbox_dead_letters WHERE state = 'dead' GROUP BY topic
"""
_TOPICS = "SELECT topic, paused_at IS NULL AND closed_at IS NULL FROM outbox_topics"
_AGES = f"SELECT {OLDEST_OWED}, {OLDEST_TRANSACTION}"
# A held snapshot, which needs no xid, shows here alone.
_DEAD_ROWS = "SELECT pg_stat_get_dead_tuples('outbox_messages'::regclass)"


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    every: timedelta
    run: Callable[[asyncpg.Connection, Settings], Awaitable[None]]
    number: int | None = None
    """Set for tasks that change something: which advisory lock they take."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Do each task at the start and then at its interval, on a connection of its own. Raises DatabaseUnavailable."""
    connection = await db.connect(
        settings,
        role="relay-housekeeping",
        statement=timedelta(seconds=60),
        idle=_IDLE,
        extra={"lock_timeout": "2000"},
    )
    tasks = _tasks(settings)
    due = dict.fromkeys((task.name for task in tasks), 0.0)
    try:
        while not stop.is_set():
            for task in tasks:
                if time.monotonic() >= due[task.name] and not stop.is_set():
                    took = await _do(connection, task, settings)
                    # What takes long on a large backlog is done less often, so that it costs at most a twentieth.
                    due[task.name] = time.monotonic() + max(task.every.total_seconds(), 20 * took)
            await wait(stop, timedelta(seconds=max(0.1, min(due.values()) - time.monotonic())))
    except db.DRIVER_ERRORS as error:
        if db.is_transient(error):
            raise db.unavailable(error) from error
        raise
    finally:
        connection.terminate()


async def _do(connection: asyncpg.Connection, task: _Task, settings: Settings) -> float:
    """One task, in a transaction of its own; how long it took, in seconds. A lock that is not free can wait."""
    started = time.monotonic()
    try:
        async with connection.transaction():
            if task.number is None or await connection.fetchval(_TURN, _LOCK_NAMESPACE, task.number):
                await task.run(connection, settings)
                await failpoints.reach("relay.housekeeping_before_commit")
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.CheckViolationError) as error:
        logger.warning("housekeeping.postponed", task=task.name, reason=db.sqlstate(error))
    took = time.monotonic() - started
    metrics.housekeeping_seconds.labels(task.name).observe(took)
    return took


def _tasks(settings: Settings) -> tuple[_Task, ...]:
    return (
        _Task("roll_receipts", timedelta(hours=1), _roll_receipts, number=1),
        _Task("check_floors", settings.relay_scan_interval, _check_floors, number=2),
        _Task("end_zombies", settings.relay_transaction_limit / 12, _end_zombies),
        _Task("purge_dead_letters", timedelta(minutes=1), _purge_dead_letters, number=3),
        _Task("purge_idempotency_keys", timedelta(seconds=30), _purge_idempotency_keys, number=4),
        _Task("watch", settings.relay_watch_interval, _watch),
        _Task("count", settings.relay_watch_interval, _count),
    )


async def _roll_receipts(connection: asyncpg.Connection, settings: Settings) -> None:
    await connection.execute(_ROLL_RECEIPTS, settings.receipts_retention)


async def _purge_dead_letters(connection: asyncpg.Connection, settings: Settings) -> None:
    await connection.execute(_PURGE_DEAD_LETTERS, settings.dead_letters_retention, _PURGE_BATCH)


async def _purge_idempotency_keys(connection: asyncpg.Connection, _settings: Settings) -> None:
    await connection.execute(_PURGE_IDEMPOTENCY_KEYS, _PURGE_KEYS_BATCH)


async def _end_zombies(connection: asyncpg.Connection, settings: Settings) -> None:
    ended = await connection.fetch(_END_ZOMBIES, f"outbox-{store.ROLE}", settings.relay_transaction_limit)
    for pid, _ in ended:
        logger.warning("zombie.ended", backend=pid)


async def _check_floors(connection: asyncpg.Connection, _settings: Settings) -> None:
    for lane, first, messages in await connection.fetch(_BELOW_FLOOR):
        logger.critical("floor.stranded", lane=lane, first=first, messages=messages)
        metrics.below_floor.inc(messages)
        await connection.execute(_LOWER_FLOOR, lane, first)


async def _watch(connection: asyncpg.Connection, _settings: Settings) -> None:
    oldest_owed, oldest_transaction = await connection.fetchrow(_AGES)
    metrics.oldest_owed.set(oldest_owed.total_seconds())
    metrics.floor_stalled.set(oldest_transaction.total_seconds())
    metrics.dead_rows.set(await connection.fetchval(_DEAD_ROWS))
    metrics.topic_open.clear()
    for topic, is_open in await connection.fetch(_TOPICS):
        metrics.topic_open.labels(topic).set(is_open)


async def _count(connection: asyncpg.Connection, _settings: Settings) -> None:
    parked = dict(await connection.fetch(_PARKED))
    owed = dict(await connection.fetch(_OWED))
    for gauge in (metrics.owed, metrics.parked, metrics.dead_letters):
        gauge.clear()
    for topic in parked.keys() | owed.keys():
        metrics.owed.labels(topic).set(owed.get(topic, 0) + parked.get(topic, 0))
        metrics.parked.labels(topic).set(parked.get(topic, 0))
    keys = 0
    for topic, letters, held in await connection.fetch(_DEAD_LETTERS):
        metrics.dead_letters.labels(topic).set(letters)
        keys += held
    metrics.parked_keys.set(keys)
