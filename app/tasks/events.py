"""What the world hears of tasks: where the result is, or why there is none."""

from app import outbox
from app.settings import Settings
from app.tasks.outcomes import TaskType
from app.tasks.schemas import Failure, Finished, Problem

MESSAGES = {
    "PROVIDER_REFUSED": "the provider does not take this input",
    "PROVIDER_UNAVAILABLE": "the provider was asked several times and did not answer",
    "OUTCOME_UNKNOWN": "the provider was asked, and its answer was lost",
    "TOO_LATE": "there was no answer within the time that a task has",
    "DISCARDED": "the operator gave the task up",
    "INVALID_TASK": "this is not a task, or not one that is accepted here",
    "HEADER_NOT_UTF8": "the name of a header is not UTF-8",
    "ATTEMPTS_EXHAUSTED": "the input could not be handled",
    "KEY_REUSED": "there is another task of this number",
}
"""All codes of failures, each in a sentence. None quotes an input or a provider."""


def problem(code: str) -> Problem:
    """The failure in the words that leave the service."""
    return Problem(code=code, message=MESSAGES[code])


def task_finished(settings: Settings, task_id: int, result_id: int) -> outbox.OutboxMessage:
    """A result, whoever sent the task. Messages of one task share its number as their key."""
    return outbox.event(
        topic=settings.kafka_result_topic,
        key=str(task_id),
        type="task.finished",
        source=settings.event_source,
        data=Finished(task_id=task_id, id=result_id).model_dump_json().encode(),
    )


def task_failed(
    settings: Settings, task_id: int | None, task_type: TaskType | None, code: str, *, key: str | None = None
) -> outbox.OutboxMessage:
    """A failure, whoever sent the task. Input without a number needs a `key` of its own."""
    return outbox.event(
        topic=settings.kafka_error_topic,
        key=str(task_id) if key is None else key,
        type="task.failed",
        source=settings.event_source,
        data=Failure(task_id=task_id, task_type=task_type, error=problem(code)).model_dump_json().encode(),
    )
