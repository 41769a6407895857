"""Statements that record how a call ended."""

import json
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.tasks.claims import Claim
from app.tasks.outcomes import ProviderName

# The answer is stored, cached, and the task done: whoever comes first, also after its lease has ended. A provider
# that answers is open.
_FINISH = text(
    """
    WITH task AS (
        SELECT task_id, task_type, cache_key FROM integration_tasks
        WHERE task_id = :task_id AND state NOT IN ('done', 'failed')
        FOR UPDATE
    ), attempt AS (
        UPDATE integration_attempts SET ended_at = clock_timestamp(), outcome = :outcome
        WHERE id = :attempt_id AND outcome IS NULL
    ), result AS (
        INSERT INTO integration_service (data, task_type)
        SELECT CAST(:data AS jsonb), task_type FROM task
        RETURNING id
    ), cached AS (
        INSERT INTO integration_cache (cache_key, data)
        SELECT cache_key, CAST(:data AS jsonb) FROM task WHERE cache_key IS NOT NULL AND :cacheable
        ON CONFLICT (cache_key) DO UPDATE SET data = excluded.data, stored_at = excluded.stored_at
    ), provider AS (
        UPDATE integration_providers SET failures = 0, blocked = NULL, closed_until = '-infinity'
        WHERE provider = :provider AND :cacheable AND (failures > 0 OR blocked IS NOT NULL)
    )
    UPDATE integration_tasks AS t
    SET state = 'done', result_id = result.id, finished_at = clock_timestamp(), leased_until = NULL, error = NULL
    FROM task, result
    WHERE t.task_id = task.task_id
    RETURNING t.result_id
    """
)

# There will be no answer.
_FAIL = text(
    """
    UPDATE integration_tasks
    SET state = 'failed', error = :error, finished_at = clock_timestamp(), leased_until = NULL
    WHERE task_id = :task_id AND state NOT IN ('done', 'failed')
    RETURNING task_id
    """
)

# It waits, for its turn or for people. Of a task that another process runs by now nothing is changed.
_POSTPONE = text(
    """
    UPDATE integration_tasks
    SET state = :state, due_at = clock_timestamp() + CAST(:pause AS interval), leased_until = NULL,
        operation_id = :operation_id, tries = tries + :tries, error = :error
    WHERE task_id = :task_id AND state = 'running' AND attempt_id IS NOT DISTINCT FROM :attempt_id
    """
)

_END_ATTEMPT = text(
    """
    UPDATE integration_attempts SET ended_at = clock_timestamp(), outcome = :outcome, code = :code
    WHERE id = :attempt_id AND outcome IS NULL
    """
)


async def finish(
    session: AsyncSession,
    *,
    task_id: int,
    provider: ProviderName,
    attempt_id: int | None,
    data: dict[str, Any],
    from_cache: bool,
) -> int | None:
    """Store the answer; its number, or None if the task had ended before."""
    result_id: int | None = await session.scalar(
        _FINISH,
        {
            "task_id": task_id,
            "provider": provider,
            "attempt_id": attempt_id,
            "outcome": "cached" if from_cache else "answered",
            "data": json.dumps(data, ensure_ascii=False),
            "cacheable": not from_cache,
        },
    )
    return result_id


async def fail(session: AsyncSession, task_id: int, error: str) -> bool:
    """End the task without an answer. False if it had ended before."""
    return await session.scalar(_FAIL, {"task_id": task_id, "error": error}) is not None


async def postpone(
    session: AsyncSession,
    claim: Claim,
    *,
    state: str = "pending",
    pause: timedelta = timedelta(0),
    operation_id: str | None = None,
    tries: int = 0,
    error: str | None = None,
) -> None:
    """Let the task wait; nothing happens if another process runs it by now."""
    await session.execute(
        _POSTPONE,
        {
            "task_id": claim.task_id,
            "attempt_id": claim.attempt_id,
            "state": state,
            "pause": pause,
            "operation_id": operation_id,
            "tries": tries,
            "error": error,
        },
    )


async def end_attempt(session: AsyncSession, attempt_id: int | None, outcome: str, code: str | None) -> None:
    """Record how a call ended."""
    if attempt_id is not None:
        await session.execute(_END_ATTEMPT, {"attempt_id": attempt_id, "outcome": outcome, "code": code})
