"""Statements that begin a call: claim a task with a slot and look into the cache.

All times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.tasks.outcomes import ProviderName, TaskType


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that this process may ask about until its lease ends. `slot` is the number of its permission to."""

    task_id: int
    task_type: TaskType
    provider: ProviderName
    input: str = field(repr=False)
    cache_key: bytes | None
    operation_id: str | None
    attempt_id: int | None
    tries: int
    is_late: bool
    traceparent: str | None
    failures: int
    """Failures of the provider in a row, before this call."""
    slot: int = 0
    cached: dict[str, Any] | None = field(default=None, repr=False)
    """What the provider said to an equal input not long ago: it need not be asked."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How one provider is called."""

    slots: int
    interval: timedelta
    """Between the starts of two calls in one slot: slots / rate."""
    slot_lease: timedelta
    task_lease: timedelta
    failures_to_close: int


_TASK_COLUMNS = """
    t.task_id, t.task_type, t.provider, t.input, t.cache_key, t.operation_id, t.attempt_id, t.tries, t.traceparent,
    t.accepted_at + CAST(:deadline AS interval) < clock_timestamp() AS is_late,
    (SELECT p.failures FROM integration_providers AS p WHERE p.provider = t.provider) AS failures
"""

# One statement, committed by itself: takes a slot that is free (of this process's own ones, `idle` are), the task that
# is due longest and that nobody asks about in other words, and writes the attempt. A provider that is closed has no
# slots, and one that was closed and may be tried has one. Times are the statement's, which an index can serve; they
# are only ever too early, and the lease of a slot is counted from after.
# The look into the cache comes after the update, whose index keeps others from asking the same, and has a snapshot of
# its own: whoever asked the same before has committed its answer by then.
_CLAIM = text(
    f"""
    WITH gate AS (
        SELECT CASE WHEN failures >= :failures_to_close OR blocked IS NOT NULL THEN 1 ELSE :slots END AS slots
        FROM integration_providers
        WHERE provider = :provider AND closed_until <= statement_timestamp()
    ), slot AS (
        SELECT s.number
        FROM integration_slots AS s, gate
        WHERE s.provider = :provider AND s.number <= gate.slots AND s.free_at <= statement_timestamp()
            AND (
                s.leased_until <= statement_timestamp()
                OR s.holder = :holder AND s.number = ANY (CAST(:idle AS integer[]))
            )
        ORDER BY s.holder = :holder DESC NULLS LAST, s.number
        LIMIT 1
        FOR UPDATE OF s SKIP LOCKED
    ), task AS (
        SELECT t.task_id, t.operation_id, slot.number
        FROM integration_tasks AS t, slot
        WHERE t.provider = :provider AND t.state = 'pending' AND t.due_at <= statement_timestamp()
            AND NOT EXISTS (
                SELECT FROM integration_tasks AS other WHERE other.state = 'running' AND other.cache_key = t.cache_key
            )
        ORDER BY t.due_at, t.task_id
        LIMIT 1
        FOR UPDATE OF t SKIP LOCKED
    ), attempt AS (
        INSERT INTO integration_attempts (task_id, provider)
        SELECT task_id, :provider FROM task WHERE operation_id IS NULL
        RETURNING id
    ), taken AS (
        UPDATE integration_slots AS s
        SET holder = :holder, leased_until = clock_timestamp() + CAST(:slot_lease AS interval),
            free_at = clock_timestamp() + CAST(:interval AS interval)
        FROM task
        WHERE s.provider = :provider AND s.number = task.number
    )
    UPDATE integration_tasks AS t
    SET state = 'running', leased_until = clock_timestamp() + CAST(:task_lease AS interval),
        attempt_id = (SELECT id FROM attempt)
    FROM task
    WHERE t.task_id = task.task_id
    RETURNING {_TASK_COLUMNS}, task.number AS slot, integration_cached(t.cache_key, CAST(:ttl AS interval)) AS cached
    """  # noqa: S608 - joined from a constant of this module; values are parameters
).columns(cached=JSONB)

# Gives slots back that this process does not use. One that had nothing to pay for may be used again at once.
_RELEASE = text(
    """
    UPDATE integration_slots SET leased_until = '-infinity'
    WHERE provider = :provider AND holder = :holder AND number = ANY (CAST(:numbers AS integer[]))
    """
)
_UNUSED = text(
    """
    UPDATE integration_slots SET free_at = '-infinity'
    WHERE provider = :provider AND holder = :holder AND number = :number
    """
)

# What providers said, not too long ago.
_CACHED = text(
    """
    SELECT cache_key, data FROM integration_cache
    WHERE cache_key = ANY (CAST(:cache_keys AS bytea[]))
        AND stored_at > statement_timestamp() - CAST(:ttl AS interval)
    """
).columns(data=JSONB)

# Leased by a process that is gone, or that will find out that it is late. Nobody waits for a row of a settle under way.
_LOST = text(
    f"""
    SELECT {_TASK_COLUMNS}
    FROM integration_tasks AS t
    WHERE t.state = 'running' AND t.leased_until <= statement_timestamp()
    ORDER BY t.leased_until
    LIMIT 1
    FOR UPDATE SKIP LOCKED
    """  # noqa: S608 - joined from a constant of this module; values are parameters
)


async def claim(
    database: AsyncSession | AsyncConnection,
    provider: ProviderName,
    terms: Terms,
    *,
    holder: UUID,
    idle: list[int],
    deadline: timedelta,
    ttl: timedelta,
) -> Claim | None:
    """The next task of this provider, if one is due and a slot is free. `idle` slots are this holder's and unused;
    answers in the cache count for `ttl`.

    Raises DBAPIError (uq_integration_tasks_in_flight) when somebody began to ask the same at this very moment.
    """
    row = (
        await database.execute(
            _CLAIM,
            {
                "provider": provider,
                "holder": holder,
                "idle": idle,
                "deadline": deadline,
                "ttl": ttl,
                "slots": terms.slots,
                "interval": terms.interval,
                "slot_lease": terms.slot_lease,
                "task_lease": terms.task_lease,
                "failures_to_close": terms.failures_to_close,
            },
        )
    ).one_or_none()
    return None if row is None else Claim(**row._mapping)


async def release(
    database: AsyncSession | AsyncConnection, provider: ProviderName, *, holder: UUID, numbers: list[int]
) -> None:
    """Give these slots back."""
    await database.execute(_RELEASE, {"provider": provider, "holder": holder, "numbers": numbers})


async def spare(database: AsyncSession | AsyncConnection, claim: Claim, *, holder: UUID) -> None:
    """The claim's slot was not used: it need not keep the rate."""
    await database.execute(_UNUSED, {"provider": claim.provider, "holder": holder, "number": claim.slot})


async def cached(
    session: AsyncSession, cache_keys: Sequence[bytes], ttl: timedelta
) -> dict[bytes | None, dict[str, Any]]:
    """What providers said to these inputs, not longer ago than `ttl`."""
    rows = await session.execute(_CACHED, {"cache_keys": list(cache_keys), "ttl": ttl})
    return {row.cache_key: row.data for row in rows}


async def lost(session: AsyncSession, deadline: timedelta) -> Claim | None:
    """A task whose lease has ended, locked until the transaction ends."""
    row = (await session.execute(_LOST, {"deadline": deadline})).one_or_none()
    return None if row is None else Claim(**row._mapping)
