"""What a third party is asked, and how that can end. The port to third parties, with one verb."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeAlias

TaskType: TypeAlias = Literal["phone", "email", "gpt"]
ProviderName: TypeAlias = Literal["dadata", "yandexgpt"]

PROVIDERS: dict[TaskType, ProviderName] = {"phone": "dadata", "email": "dadata", "gpt": "yandexgpt"}
"""Who answers which tasks."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. With `operation_id` the answer is already being worked on, and asking costs nothing."""

    task_type: TaskType
    text: str = field(repr=False)
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The provider's payload, whatever it says about the input: "not recognised" is an answer, and is billed."""

    data: dict[str, Any] = field(repr=False)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Running:
    """Accepted and billed; the answer can be asked for under this id, again and again."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """This input will never be answered."""

    code: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Not done and not billed; may work later. With `operation_id` the operation itself goes on."""

    code: str
    retry_after: timedelta | None = None
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """The provider takes no more from us for so long. It says nothing about this task."""

    code: str
    retry_after: timedelta
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """The provider takes nothing from us until somebody changes a setting or pays."""

    code: str
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows whether it was done and billed."""

    code: str


Outcome: TypeAlias = Answered | Running | Refused | Failed | Busy | Blocked | Unknown


class Provider(Protocol):
    """A third party that answers questions."""

    async def ask(self, question: Question) -> Outcome:
        """Ask once. Never raises for what the third party or the way to it does; being cancelled leaves it unknown
        whether the question was answered.
        """
        ...
