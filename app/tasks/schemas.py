"""What a task looks like from outside: in requests, in messages, in answers."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.settings import Settings
from app.tasks.outcomes import TaskType

_LARGEST = 2**63 - 1
_LONGEST_VALUE = 100
"""Dadata takes so many characters; refusing more here costs nothing."""

State = Literal["pending", "running", "held", "done", "failed"]


def _number(value: object) -> object:
    """Read a string of decimal digits as the number that it is; leave the rest to the type."""
    if isinstance(value, str) and 0 < len(value) <= 20 and value.isascii() and value.isdecimal():  # noqa: PLR2004 - digits of 2**63, and one more
        return int(value)
    return value


TaskNumber = Annotated[int, Field(ge=-_LARGEST - 1, le=_LARGEST)]
TaskId = Annotated[
    TaskNumber,
    Field(strict=True),
    BeforeValidator(_number),
    Field(
        description="Number of the task, chosen by who sends it; as a number or a string of digits.",
        examples=[1],
    ),
]
ResultId = Annotated[int, Field(ge=1, le=_LARGEST, description="Number of the stored answer.", examples=[1])]


def _storable(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain the character U+0000")
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


class NewTask(BaseModel):
    """A task as it comes, over HTTP or from Kafka."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"task_id": 1, "task_type": "phone", "data": "+7 916 123-45-67"}]},
    )

    task_id: TaskId
    task_type: Annotated[TaskType, Field(description="What is to be done.")]
    data: Annotated[
        str,
        StringConstraints(min_length=1),
        AfterValidator(_storable),
        Field(repr=False, description="A phone, an email, or a prompt."),
    ]

    longest_prompt: ClassVar[int] = 10_000

    @model_validator(mode="after")
    def _is_not_too_long(self) -> Self:
        longest = self.longest_prompt if self.task_type == "gpt" else _LONGEST_VALUE
        if len(self.data) > longest:
            raise PydanticCustomError(
                "too_long", "data must have at most {longest} characters for this task_type", {"longest": longest}
            )
        return self


def new_task_type(settings: Settings) -> type[NewTask]:
    """The same, with the limits of the settings."""

    class LimitedNewTask(NewTask):
        longest_prompt = settings.task_prompt_max_length

    LimitedNewTask.__name__ = NewTask.__name__
    return LimitedNewTask


class Finished(BaseModel):
    """The answer to a task: where its result is stored."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [{"task_id": 1, "id": 1}]})

    task_id: TaskId
    id: ResultId


class Unfinished(BaseModel):
    """The answer to a task that has no result yet."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [{"task_id": 1, "state": "pending"}]})

    task_id: TaskId
    state: State


class Problem(BaseModel):
    """Why a task has no result."""

    model_config = ConfigDict(frozen=True)

    code: Annotated[str, Field(description="Kind of the failure.", examples=["PROVIDER_REFUSED"])]
    message: Annotated[str, Field(description="The same in a sentence.")]


class Failure(BaseModel):
    """A task that has no result and will have none. `task_id` and `task_type` are null where they cannot be read."""

    model_config = ConfigDict(frozen=True)

    task_id: TaskId | None
    task_type: TaskType | None
    error: Problem


class Task(BaseModel):
    """How far a task is. What was asked is not repeated."""

    model_config = ConfigDict(frozen=True)

    task_id: TaskId
    task_type: TaskType
    state: Annotated[
        State,
        Field(
            description="`pending` and `running` end by themselves. `held`: whether the provider was paid is not known,"
            " and the operator decides. `done` has an `id`, `failed` an `error`."
        ),
    ]
    id: ResultId | None
    error: Problem | None
    attempts: Annotated[int, Field(description="Calls of the provider that may have been billed.")]
    accepted_at: datetime
    finished_at: datetime | None


class Result(BaseModel):
    """A stored answer."""

    model_config = ConfigDict(frozen=True)

    id: ResultId
    task_type: TaskType
    data: Annotated[
        dict[str, Any],
        Field(repr=False, description="The provider's payload. For phones and emails `qc` says how good it is."),
    ]
