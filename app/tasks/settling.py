"""What follows from the end of a call: one transaction with the task, its attempt, its provider and its messages."""

import random
from datetime import timedelta
from typing import assert_never

from sqlalchemy.ext.asyncio import AsyncSession

from app import log, outbox, trace
from app.settings import Settings
from app.tasks import endings, gates
from app.tasks.claims import Claim
from app.tasks.events import task_failed, task_finished
from app.tasks.outcomes import (
    Answered,
    Blocked,
    Busy,
    Failed,
    Outcome,
    ProviderName,
    Refused,
    Running,
    Unknown,
)

logger = log.get(__name__)

LOST = Unknown("CALL_LOST")
"""The process that asked is gone, or was too late to say how it went."""


async def settle(session: AsyncSession, claim: Claim, outcome: Outcome, settings: Settings) -> None:
    """Record `outcome` in the caller's transaction, and owe the message about a task that ended by it."""
    match outcome:
        case Answered(data):
            await finish(session, claim, data, settings, from_cache=False)
        case Running(operation_id):
            # Committed at once: from here on nothing that happens costs anything.
            await endings.end_attempt(session, claim.attempt_id, "running", None)
            await endings.postpone(session, claim, pause=settings.yandexgpt_poll, operation_id=operation_id)
        case Refused(code):
            await endings.end_attempt(session, claim.attempt_id, "refused", code)
            await _fail(session, claim, "PROVIDER_REFUSED", settings)
        case Busy(code, retry_after, operation_id):
            await endings.end_attempt(session, claim.attempt_id, "busy", code)
            await endings.postpone(session, claim, pause=retry_after, operation_id=operation_id, error=code)
            await gates.close(session, claim.provider, retry_after)
        case Blocked(code, operation_id):
            await endings.end_attempt(session, claim.attempt_id, "blocked", code)
            await endings.postpone(session, claim, operation_id=operation_id, error=code)
            await gates.close(session, claim.provider, settings.provider_pause_max, blocked=code)
        case Failed():
            await _failed(session, claim, outcome, settings)
        case Unknown():
            await _unknown(session, claim, outcome, settings)
        case _:
            assert_never(outcome)


async def finish(
    session: AsyncSession, claim: Claim, data: dict[str, object], settings: Settings, *, from_cache: bool
) -> None:
    """Store an answer and owe the message about it."""
    if "source" in data:
        data = data | {"source": claim.input}  # an equal input may have been asked in other words
    result_id = await endings.finish(
        session,
        task_id=claim.task_id,
        provider=claim.provider,
        attempt_id=claim.attempt_id,
        data=data,
        from_cache=from_cache,
    )
    if result_id is not None:
        _continue_trace(claim)
        await outbox.add(session, task_finished(settings, claim.task_id, result_id))


async def _fail(session: AsyncSession, claim: Claim, error: str, settings: Settings) -> None:
    if await endings.fail(session, claim.task_id, error):
        _continue_trace(claim)
        await outbox.add(session, task_failed(settings, claim.task_id, claim.task_type, error))


async def _failed(session: AsyncSession, claim: Claim, outcome: Failed, settings: Settings) -> None:
    """Not done, not billed: again later, or never."""
    await endings.end_attempt(session, claim.attempt_id, "failed", outcome.code)
    # While the provider as a whole is down, nothing is said about this task, and no try of it is used up.
    is_down = claim.attempt_id is None or claim.failures >= settings.provider_failures_to_close
    if claim.is_late and outcome.operation_id is None:
        await _fail(session, claim, "TOO_LATE", settings)
    elif not is_down and claim.tries + 1 >= attempts(settings, claim.provider):
        await _fail(session, claim, "PROVIDER_UNAVAILABLE", settings)
    else:
        await endings.postpone(
            session,
            claim,
            pause=max(_pause(claim, settings), outcome.retry_after or timedelta(0)),
            operation_id=outcome.operation_id,
            tries=0 if is_down else 1,
            error=outcome.code,
        )
    await gates.count_failure(session, claim.provider, settings)


async def _unknown(session: AsyncSession, claim: Claim, outcome: Unknown, settings: Settings) -> None:
    """Perhaps done and billed. A second call may be paid a second time, so each is counted."""
    await endings.end_attempt(session, claim.attempt_id, "unknown", outcome.code)
    logger.warning(
        "task.outcome_unknown", task_id=claim.task_id, provider=claim.provider, code=outcome.code, tries=claim.tries + 1
    )
    if policy(settings, claim.provider) == "hold":
        await endings.postpone(session, claim, state="held", tries=1, error=outcome.code)
    elif claim.tries + 1 >= attempts(settings, claim.provider):
        await _fail(session, claim, "OUTCOME_UNKNOWN", settings)
    else:
        pause = timedelta(0) if outcome is LOST else _pause(claim, settings)
        await endings.postpone(session, claim, pause=pause, tries=1, error=outcome.code)
    if outcome is not LOST:
        await gates.count_failure(session, claim.provider, settings)


def attempts(settings: Settings, provider: ProviderName) -> int:
    """How often the provider may be asked for one task."""
    return settings.dadata_attempts if provider == "dadata" else settings.yandexgpt_attempts


def policy(settings: Settings, provider: ProviderName) -> str:
    """What follows from an unknown outcome: `retry` or `hold`."""
    return settings.dadata_unknown if provider == "dadata" else settings.yandexgpt_unknown


def _pause(claim: Claim, settings: Settings) -> timedelta:
    """Before the next try: doubling, with full jitter above the half, so that tasks do not return together."""
    doubled: timedelta = settings.task_retry_min * (1 << min(claim.tries, 20))
    return min(doubled, settings.task_retry_max) * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _continue_trace(claim: Claim) -> None:
    """The message belongs to the request that brought the task."""
    trace.current.set(claim.traceparent)
