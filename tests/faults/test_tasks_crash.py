"""A process that dies anywhere on a task's path: nothing is lost, nothing is answered twice, and what may have been
paid twice is known.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import pytest

from tests.armed import Child, child
from tests.failpoints import Action, Fault
from tests.faults import task_process
from tests.providing import ServedFakes, serving_fakes
from tests.tasking import QUICK, Tasks, tasks_on
from tests.waiting import until

# The provider may take its time, and leases are ended by hand: what a busy machine makes late is nobody's crash.
HASTE = QUICK | {"dadata_timeout": 30, "yandexgpt_timeout": 30, "log_level": "error"}
RESULTS = "integration.results"
LONG = timedelta(seconds=90)


Settings = dict[str, object]


def settings_of(database_url: str, fakes: ServedFakes, **overrides: object) -> Settings:
    return HASTE | {"database_url": database_url, "fakes_url": fakes.url} | overrides


@asynccontextmanager
async def process(settings: Settings, *topics: str) -> AsyncIterator[Child]:
    """A process that can be told to stop, and is at the end of the block."""
    async with child(*topics, program=task_process.main, settings=settings) as started:
        await started.says("tasks.ready")
        yield started
        await started.stop()


def dying(
    settings: Settings, *topics: str, point: str | None = None, number: int = 1
) -> AbstractAsyncContextManager[Child]:
    """A process that dies when it reaches `point` for the `number`th time, or is killed by the test."""
    fault = None if point is None else Fault(point, Action.EXIT, number)
    return child(*topics, fault=fault, program=task_process.main, settings=settings)


@pytest.fixture
async def tasks(database_url: str) -> AsyncIterator[Tasks]:
    async with tasks_on(database_url, **HASTE) as tasks:
        yield tasks


async def each_was_answered_once(tasks: Tasks, count: int) -> None:
    messages = await tasks.messages(RESULTS)
    assert len(messages) == len(set(messages)) == count
    ((results, done),) = await tasks.query(
        "SELECT (SELECT count(*) FROM integration_service), "
        "(SELECT count(*) FROM integration_tasks WHERE state = 'done')"
    )
    assert results == done == count


@pytest.mark.parametrize(
    "point", ["tasks.after_claim", "tasks.after_call_before_finish", "tasks.before_commit", "tasks.after_commit"]
)
async def test_a_phone_is_answered_whenever_its_process_dies(tasks: Tasks, point: str) -> None:
    async with serving_fakes(delay=0.02) as served:
        env = settings_of(tasks.url, served)
        for number in range(6):
            await tasks.accept(number, f"8916123456{number}")
        async with dying(env, point=point, number=4) as it:
            await it.dies()
        await served.quiet()
        await tasks.end_leases()
        # What the others had in hand may be lost with it: each is an attempt without an end.
        ((open_attempts,),) = await tasks.query("SELECT count(*) FROM integration_attempts WHERE outcome IS NULL")
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 6)
        assert await tasks.unknown() == open_attempts <= 2 * tasks.settings.dadata_slots
        assert set(served.fakes.dadata.inputs) == {f"8916123456{number}" for number in range(6)}
        assert 6 <= served.fakes.dadata.billed <= 6 + open_attempts
        assert served.fakes.dadata.most_in_flight <= tasks.settings.dadata_slots


@pytest.mark.parametrize(
    ("point", "extra"),
    [
        ("tasks.after_claim", 0),
        ("tasks.after_call_before_finish", 1),
        ("tasks.before_commit", 1),
        ("tasks.after_commit", 0),
    ],
)
async def test_one_crash_costs_at_most_one_call_and_the_metric_shows_it(
    database_url: str, point: str, extra: int
) -> None:
    async with tasks_on(database_url, **HASTE, dadata_slots=1) as tasks, serving_fakes() as served:
        env = settings_of(database_url, served, dadata_slots=1)
        await tasks.accept(0, "89161234560")
        async with dying(env, point=point) as it:
            await it.dies()
        await tasks.end_leases()
        for number in range(3):
            await tasks.accept(number, f"8916123456{number}")
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 3)
        assert served.fakes.dadata.billed == 3 + extra
        # Before the call or after it: from outside that cannot be told apart, and is counted as paid.
        assert await tasks.unknown() == (0 if point == "tasks.after_commit" else 1)
        assert served.fakes.dadata.most_in_flight == 1


async def test_a_process_killed_while_the_provider_thinks_costs_one_call(tasks: Tasks) -> None:
    async with serving_fakes() as served:
        env = settings_of(tasks.url, served)
        served.fakes.dadata.gate.clear()
        await tasks.accept(1, "89161234567")
        async with dying(env) as it:

            async def asked() -> bool:
                return served.fakes.dadata.in_flight == 1

            await until(asked)
            it.kill()
        served.fakes.dadata.gate.set()
        await tasks.end_leases()
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 1)
        assert served.fakes.dadata.billed == 2
        assert await tasks.unknown() == 1


@pytest.mark.parametrize(
    ("point", "billed"), [("tasks.after_claim", 0), ("tasks.after_call_before_finish", 1), ("tasks.before_commit", 1)]
)
async def test_a_prompt_whose_process_died_is_held(tasks: Tasks, point: str, billed: int) -> None:
    async with serving_fakes() as served:
        env = settings_of(tasks.url, served)
        await tasks.accept(1, "Why?", "gpt")
        async with dying(env, point=point) as it:
            await it.dies()
        await tasks.end_leases()
        async with process(env):
            await tasks.reach("held", timeout=LONG)
        assert served.fakes.yandexgpt.billed == billed
        assert await tasks.unknown("yandexgpt") == 1
        assert await tasks.messages(RESULTS) == []


@pytest.mark.parametrize(
    ("point", "number"),
    [
        ("tasks.after_commit", 1),
        ("tasks.after_claim", 2),
        ("tasks.after_call_before_finish", 2),
        ("tasks.before_commit", 2),
    ],
    ids=str,
)
async def test_an_operation_outlives_its_process_for_free(tasks: Tasks, point: str, number: int) -> None:
    async with serving_fakes() as served:
        env = settings_of(tasks.url, served, yandexgpt_mode="async")
        await tasks.accept(1, "Why?", "gpt")
        async with dying(env, point=point, number=number) as it:
            await it.dies()
        await tasks.end_leases()
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 1)
        assert served.fakes.yandexgpt.billed == 1
        assert await tasks.unknown("yandexgpt") == 0
