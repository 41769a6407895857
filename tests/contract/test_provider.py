"""What any provider promises, whether it is the one in memory or the real client against the fakes."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from app.fakes.script import Fault
from app.settings import load
from app.tasks.outcomes import (
    PROVIDERS,
    Answered,
    Blocked,
    Busy,
    Failed,
    Outcome,
    Provider,
    Question,
    Refused,
    Running,
    TaskType,
    Unknown,
)
from app.tasks.providers import connect_all
from tests.providing import MemoryProvider, serving_fakes


@dataclass
class World:
    """A provider, what it billed, and a way to make its next question end in a certain way."""

    provider: Callable[[TaskType], Provider]
    billed: Callable[[], int]
    end: Callable[[type[Outcome]], None]
    tasks: list[TaskType] = field(default_factory=lambda: ["phone", "email", "gpt"])


FAULTS = {
    Refused: Fault(status=400),
    Busy: Fault(status=429, retry_after="3"),
    Blocked: Fault(status=403, message="no money"),
    Failed: Fault(status=503),
    Unknown: Fault(billed=True),
}
ENDINGS: dict[type[Outcome], Outcome] = {
    Refused: Refused("NO"),
    Busy: Busy("BUSY", timedelta(seconds=3)),
    Blocked: Blocked("NO_MONEY"),
    Failed: Failed("DOWN"),
    Unknown: Unknown("LOST"),
}


@pytest.fixture(params=["memory", "memory async", "http", "http async"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    is_async = request.param.endswith("async")
    if request.param.startswith("memory"):
        memory = MemoryProvider(is_async=is_async)
        yield World(lambda _: memory, lambda: len(memory.billed), lambda ending: memory.endings.append(ENDINGS[ending]))
        return
    async with serving_fakes() as served:
        settings = load(_env_file=None, fakes_url=served.url, yandexgpt_mode="async" if is_async else "sync")
        scripts = (served.fakes.dadata, served.fakes.yandexgpt)

        def end(ending: type[Outcome]) -> None:
            for script in scripts:
                script.faults.append(FAULTS[ending])

        async with connect_all(settings) as providers:
            yield World(
                lambda task_type: providers[PROVIDERS[task_type]],
                lambda: sum(script.billed for script in scripts),
                end,
            )


async def ask(world: World, task_type: TaskType) -> Outcome:
    """Ask, and go on asking about what is being worked on."""
    question = Question(task_type, "+7 916 123-45-67")
    outcome = await world.provider(task_type).ask(question)
    while isinstance(outcome, Running):
        assert world.billed() == 1
        question = Question(task_type, question.text, outcome.operation_id)
        outcome = await world.provider(task_type).ask(question)
    return outcome


@pytest.mark.parametrize("task_type", ["phone", "email", "gpt"])
async def test_a_question_is_answered_and_billed_once(world: World, task_type: TaskType) -> None:
    outcome = await ask(world, task_type)
    assert isinstance(outcome, Answered)
    assert ("alternatives" if task_type == "gpt" else "qc") in outcome.data
    assert world.billed() == 1


@pytest.mark.parametrize("task_type", ["phone", "gpt"])
@pytest.mark.parametrize("ending", [Refused, Busy, Blocked, Failed])
async def test_what_was_not_done_is_not_billed_and_may_be_asked_again(
    world: World, task_type: TaskType, ending: type[Outcome]
) -> None:
    world.end(ending)
    outcome = await ask(world, task_type)
    assert isinstance(outcome, ending)
    assert world.billed() == 0
    assert isinstance(await ask(world, task_type), Answered)
    assert world.billed() == 1


@pytest.mark.parametrize("task_type", ["phone", "gpt"])
async def test_an_answer_that_got_lost_is_unknown(world: World, task_type: TaskType) -> None:
    world.end(Unknown)
    assert isinstance(await ask(world, task_type), Unknown)
    assert world.billed() == 1


async def test_a_running_operation_can_be_asked_about_again_and_again(world: World) -> None:
    question = Question("gpt", "Why?")
    outcome = await world.provider("gpt").ask(question)
    if isinstance(outcome, Answered):
        pytest.skip("it answers at once")
    assert isinstance(outcome, Running)
    again = Question("gpt", "Why?", outcome.operation_id)
    answers = [await world.provider("gpt").ask(again) for _ in range(3)]
    assert all(isinstance(answer, Answered) for answer in answers)
    assert answers[0] == answers[2]
    assert world.billed() == 1
