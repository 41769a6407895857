"""The use cases of tasks, for requests and for messages. Each works in the caller's transaction and commits nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, Select, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from app import failpoints, outbox, trace
from app.errors import Conflict, NotFound
from app.settings import Settings
from app.tasks import claims
from app.tasks import endings as store
from app.tasks.events import problem, task_finished
from app.tasks.inputs import cache_key, fingerprint
from app.tasks.models import attempts, results, tasks
from app.tasks.outcomes import PROVIDERS, TaskType
from app.tasks.schemas import NewTask, Result, State, Task

# Accepts the tasks whose numbers are new, in the order of their numbers: two batches cannot wait for each other.
_INSERT = text(
    """
    INSERT INTO integration_tasks (task_id, task_type, provider, input, fingerprint, cache_key, origin, traceparent)
    SELECT task_id, task_type, provider, input, fingerprint, cache_key, :origin, traceparent
    FROM unnest(
        CAST(:task_ids AS bigint[]), CAST(:task_types AS text[]), CAST(:providers AS text[]), CAST(:inputs AS text[]),
        CAST(:fingerprints AS bytea[]), CAST(:cache_keys AS bytea[]), CAST(:traceparents AS text[])
    ) WITH ORDINALITY AS new (
        task_id, task_type, provider, input, fingerprint, cache_key, traceparent, position
    )
    ORDER BY task_id, position
    ON CONFLICT ON CONSTRAINT pk_integration_tasks DO NOTHING
    RETURNING task_id
    """
)

# The tasks of these numbers.
_KNOWN = text(
    "SELECT task_id, fingerprint, state, result_id, error FROM integration_tasks "
    "WHERE task_id = ANY (CAST(:task_ids AS bigint[]))"
)

# How far a task is.
_TASK = select(
    tasks.c.task_id,
    tasks.c.task_type,
    tasks.c.state,
    tasks.c.result_id,
    tasks.c.error,
    tasks.c.accepted_at,
    tasks.c.finished_at,
    select(func.count())
    .where(attempts.c.task_id == tasks.c.task_id, attempts.c.outcome != "cached")
    .scalar_subquery()
    .label("attempts"),
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task that is known now, new or not: `result_id` if it is done, `error` if it has failed.

    `message` is owed for a task that was done by being accepted.
    """

    task_id: int
    state: State
    result_id: int | None
    error: str | None
    message: outbox.OutboxMessage | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One page, newest first, and how many there are on all pages."""

    items: Sequence[Any]
    total: int


@dataclass(frozen=True, slots=True)
class Reused:
    """The number belongs to a task that asks something else."""

    task_id: int


async def accept(
    session: AsyncSession,
    news: Sequence[NewTask],
    *,
    origin: Literal["rest", "kafka"],
    settings: Settings,
    traceparents: Sequence[str | None] | None = None,
) -> list[Accepted | Reused]:
    """Take the tasks that are new; the answers of those that are known. What the cache knows is answered at once, and
    its `message` is left to the caller to add.
    """
    keys = [cache_key(new.task_type, new.data) for new in news]
    prints = [fingerprint(new.task_type, new.data) for new in news]
    added = set(
        await session.scalars(
            _INSERT,
            {
                "origin": origin,
                "task_ids": [new.task_id for new in news],
                "task_types": [new.task_type for new in news],
                "providers": [PROVIDERS[new.task_type] for new in news],
                "inputs": [new.data for new in news],
                "fingerprints": prints,
                "cache_keys": keys,
                "traceparents": list(traceparents or [trace.current.get()] * len(news)),
            },
        )
    )
    # A statement of its own: the snapshot of the INSERT may be older than a commit that it waited for.
    known = {row.task_id: row for row in await session.execute(_KNOWN, {"task_ids": [new.task_id for new in news]})}
    wanted = [key for new, key in zip(news, keys, strict=True) if key is not None and new.task_id in added]
    cached = await claims.cached(session, wanted, settings.task_cache_ttl) if wanted else {}
    endings: list[Accepted | Reused] = []
    for new, key, print_ in zip(news, keys, prints, strict=True):
        row = known[new.task_id]
        if row.fingerprint != print_:
            endings.append(Reused(new.task_id))
        elif new.task_id in added and key in cached:
            added.remove(new.task_id)  # it may be in the batch twice
            endings.append(await _finish(session, new, cached[key], settings))
        else:
            endings.append(Accepted(new.task_id, row.state, row.result_id, row.error))
    await failpoints.reach("tasks.after_accept")
    return endings


async def send(session: AsyncSession, new: NewTask, *, settings: Settings) -> Accepted:
    """`accept` for a request: with the message that is owed. Raises Conflict for a number that is used otherwise."""
    (task,) = await accept(session, [new], origin="rest", settings=settings)
    if isinstance(task, Reused):
        raise Conflict("there is another task of this number")
    if task.message is not None:
        await outbox.add(session, task.message)
    return task


async def _finish(session: AsyncSession, new: NewTask, data: dict[str, Any], settings: Settings) -> Accepted:
    result_id = await store.finish(
        session,
        task_id=new.task_id,
        provider=PROVIDERS[new.task_type],
        attempt_id=None,
        data=data | {"source": new.data},  # an equal input may have been asked in other words
        from_cache=True,
    )
    assert result_id is not None  # noqa: S101 - for the type checker: the task was added by this transaction
    return Accepted(new.task_id, "done", result_id, None, task_finished(settings, new.task_id, result_id))


async def get_task(session: AsyncSession, task_id: int) -> Task:
    """How far the task of this number is. Raises NotFound."""
    row = (await session.execute(_TASK.where(tasks.c.task_id == task_id))).one_or_none()
    if row is None:
        raise NotFound("there is no task of this number")
    return _task(row)


async def get_result(session: AsyncSession, result_id: int) -> Result:
    """The stored answer of this number. Raises NotFound."""
    row = (await session.execute(select(results).where(results.c.id == result_id))).one_or_none()
    if row is None:
        raise NotFound("there is no result of this number")
    return Result.model_validate(row._mapping)


async def list_tasks(
    session: AsyncSession, *, task_type: TaskType | None, state: State | None, page: int, size: int
) -> Listed:
    """Page `page` (from 1) of the tasks, the highest number first."""
    chosen = _TASK
    if task_type is not None:
        chosen = chosen.where(tasks.c.task_type == task_type)
    if state is not None:
        chosen = chosen.where(tasks.c.state == state)
    rows, total = await _page(session, chosen, tasks.c.task_id.desc(), page=page, size=size)
    return Listed([_task(row) for row in rows], total)


async def list_results(session: AsyncSession, *, task_type: TaskType | None, page: int, size: int) -> Listed:
    """Page `page` (from 1) of the stored answers, the newest first."""
    chosen = select(results)
    if task_type is not None:
        chosen = chosen.where(results.c.task_type == task_type)
    rows, total = await _page(session, chosen, results.c.id.desc(), page=page, size=size)
    return Listed([Result.model_validate(row._mapping) for row in rows], total)


async def ended(session: AsyncSession, task_ids: Sequence[int]) -> list[Accepted]:
    """Those of these tasks that are done, have failed or are held."""
    rows = await session.execute(
        select(tasks.c.task_id, tasks.c.state, tasks.c.result_id, tasks.c.error).where(
            tasks.c.task_id == func.any(literal(list(task_ids), type_=ARRAY(BigInteger))),
            tasks.c.state.in_(("done", "failed", "held")),
        )
    )
    return [Accepted(**row._mapping) for row in rows]


async def _page(
    session: AsyncSession, chosen: Select[Any], *order: Any, page: int, size: int
) -> tuple[Sequence[Any], int]:
    total = await session.scalar(select(func.count()).select_from(chosen.order_by(None).subquery()))
    rows = await session.execute(chosen.order_by(*order).limit(size).offset((page - 1) * size))
    return rows.all(), total or 0


def _task(row: Any) -> Task:
    return Task(
        task_id=row.task_id,
        task_type=row.task_type,
        state=row.state,
        id=row.result_id,
        # What an unfinished task met last is the provider's code, for operators only.
        error=problem(row.error) if row.state == "failed" else None,
        attempts=row.attempts,
        accepted_at=row.accepted_at,
        finished_at=row.finished_at,
    )
