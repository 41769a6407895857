"""What becomes of an input from Kafka: a task in the table, or a dead letter and a failure that says so."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app import trace
from app.api import strict_json
from app.kafka.batch import ATTEMPTS_EXHAUSTED, KEY_REUSED, Undecodable
from app.kafka.dead_letter import dead_letter
from app.kafka.input import Input, coordinates, identify
from app.outbox import OutboxMessage
from app.settings import Settings
from app.tasks import service
from app.tasks.events import task_failed
from app.tasks.outcomes import TaskType
from app.tasks.schemas import NewTask, TaskId, new_task_type

INVALID_TASK = "INVALID_TASK"

_TASK_ID: TypeAdapter[int] = TypeAdapter(TaskId)
_TASK_TYPE: TypeAdapter[TaskType] = TypeAdapter(TaskType)


class TasksHandler:
    """The `app.kafka.batch.Handler` of tasks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._type = new_task_type(settings)

    def decode(self, record: Input) -> NewTask | Undecodable:
        """The task that the record's value is, by the rules of the HTTP API."""
        try:
            return self._type.model_validate(_parse(record))
        except (strict_json.NotJson, strict_json.NotStorable, ValidationError):
            return Undecodable(INVALID_TASK)

    def identify(self, record: Input, _content: NewTask | Undecodable) -> str:
        """Not the task's number: tasks know by themselves which are the same, in whatever words they come."""
        return identify(record)

    async def handle(self, session: AsyncSession, inputs: Sequence[tuple[Input, NewTask]]) -> list[OutboxMessage]:
        """Accept all tasks. What the provider says of them is told later, when it has said it."""
        tasks = await service.accept(
            session,
            [new for _, new in inputs],
            origin="kafka",
            settings=self._settings,
            traceparents=[_traceparent(record) for record, _ in inputs],
        )
        messages: list[OutboxMessage] = []
        for (record, new), task in zip(inputs, tasks, strict=True):
            match task:
                case service.Reused():
                    messages += self._reused(record, new)
                case service.Accepted(message=message) if message is not None:
                    messages.append(message)
        return messages

    def refuse(self, record: Input, reason: str) -> list[OutboxMessage]:
        """A failure, with the task's number and type where these can be read."""
        task_id, task_type = (None, None) if reason == ATTEMPTS_EXHAUSTED else _named(record)
        key = coordinates(record) if task_id is None else None
        return [task_failed(self._settings, task_id, task_type, reason, key=key)]

    def _reused(self, record: Input, new: NewTask) -> list[OutboxMessage]:
        buried = dead_letter(
            record,
            topic=self._settings.kafka_import_dead_letters_topic,
            consumer=self._settings.tasks_group,
            source=self._settings.event_source,
            reason=KEY_REUSED,
            attempts=None,
            max_bytes=self._settings.message_max_bytes,
        )
        return [buried, task_failed(self._settings, new.task_id, new.task_type, KEY_REUSED)]


def _traceparent(record: Input) -> str | None:
    header = record.header("traceparent")
    return None if header is None else trace.accept(header.decode("latin-1"))


def _parse(record: Input) -> Any:
    return strict_json.parse(record.value or b"")


def _named(record: Input) -> tuple[int | None, TaskType | None]:
    """The number and the type of what is no task, each if it is one."""
    try:
        found = _parse(record)
    except (strict_json.NotJson, strict_json.NotStorable):
        return None, None
    if not isinstance(found, dict):
        return None, None
    task_id: int | None = None
    task_type: TaskType | None = None
    try:
        task_id = _TASK_ID.validate_python(found.get("task_id"))
        task_type = _TASK_TYPE.validate_python(found.get("task_type"))
    except ValidationError:
        pass
    return task_id, task_type
