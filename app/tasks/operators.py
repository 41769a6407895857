"""What people do with tasks. Each works in the caller's transaction and commits nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app import log, outbox
from app.errors import Conflict, NotFound
from app.settings import Settings
from app.tasks import endings
from app.tasks.events import task_failed

logger = log.get(__name__)

_COLUMNS = """
    t.task_id, t.task_type, t.provider, t.state, t.origin, t.tries, t.operation_id, t.result_id, t.error,
    t.accepted_at, t.due_at, t.finished_at,
    (SELECT count(*) FROM integration_attempts AS a WHERE a.task_id = t.task_id AND a.outcome = 'unknown') AS unknown
"""
_LIST = text(
    f"""
    SELECT {_COLUMNS} FROM integration_tasks AS t
    WHERE CAST(:state AS text) IS NULL OR t.state = :state
    ORDER BY t.accepted_at DESC, t.task_id DESC LIMIT :limit
    """  # noqa: S608 - joined from a constant of this module; values are parameters
)
_SHOW = text(f"SELECT {_COLUMNS} FROM integration_tasks AS t WHERE t.task_id = :task_id")  # noqa: S608 - as above

# A held task is due again. Its provider may be paid a second time: that is what somebody decided.
_RELEASE = text(
    """
    UPDATE integration_tasks SET state = 'pending', due_at = clock_timestamp()
    WHERE task_id = :task_id AND state = 'held'
    RETURNING task_id
    """
)
_LOCK_UNFINISHED = text(
    "SELECT task_type FROM integration_tasks WHERE task_id = :task_id AND state IN ('held', 'pending') FOR UPDATE"
)


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as operators see it, without what was asked. `error` is what it met last, `unknown` how many of its calls
    nobody knows the outcome of.
    """

    task_id: int
    task_type: str
    provider: str
    state: str
    origin: str
    tries: int
    operation_id: str | None
    result_id: int | None
    error: str | None
    accepted_at: datetime
    due_at: datetime
    finished_at: datetime | None
    unknown: int


async def list_tasks(session: AsyncSession, *, state: str | None, limit: int) -> Sequence[TaskState]:
    """The tasks accepted last, in this state if one is given."""
    rows = await session.execute(_LIST, {"state": state, "limit": limit})
    return [TaskState(**row._mapping) for row in rows]


async def show(session: AsyncSession, task_id: int) -> TaskState:
    """Raises NotFound."""
    row = (await session.execute(_SHOW, {"task_id": task_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return TaskState(**row._mapping)


async def release(session: AsyncSession, task_id: int, *, by: str) -> None:
    """Ask the provider again, though it may have been paid. Raises NotFound, or Conflict unless the task is held."""
    if await session.scalar(_RELEASE, {"task_id": task_id}) is None:
        found = await show(session, task_id)
        raise Conflict(f"task {task_id} is not held, but {found.state}")
    logger.warning("task.released", task_id=task_id, by=by)


async def discard(session: AsyncSession, task_id: int, *, by: str, settings: Settings) -> None:
    """End a held or waiting task without a result, and tell so. Raises NotFound, or Conflict in other states."""
    task_type = await session.scalar(_LOCK_UNFINISHED, {"task_id": task_id})
    if task_type is None:
        found = await show(session, task_id)
        raise Conflict(f"task {task_id} is neither held nor waiting, but {found.state}")
    await endings.fail(session, task_id, "DISCARDED")
    logger.warning("task.discarded", task_id=task_id, by=by)
    await outbox.add(session, task_failed(settings, task_id, task_type, "DISCARDED"))
