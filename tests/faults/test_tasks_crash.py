"""A process that dies anywhere on a task's path: nothing is lost, nothing is answered twice, and what may have been
paid twice is known.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.providing import ServedFakes, serving_fakes
from tests.tasking import QUICK, Tasks, tasks_on
from tests.waiting import until

HASTE = QUICK | {"dadata_timeout": 0.25, "yandexgpt_timeout": 10, "task_lease_margin": 0.2, "log_level": "error"}
RESULTS = "integration.results"
LONG = timedelta(seconds=90)


def environment(database_url: str, fakes: ServedFakes, **overrides: object) -> dict[str, str]:
    settings = HASTE | {"database_url": database_url, "fakes_url": fakes.url} | overrides
    return os.environ | {name.upper(): str(value) for name, value in settings.items()}


@asynccontextmanager
async def process(
    env: dict[str, str], point: str = "never", number: int = 1
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is gone at the end of the block, stopped in an orderly way if it still lives."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.task_process", point, str(number), env=env
    )
    try:
        yield started
        if started.returncode is None:
            started.terminate()
            async with asyncio.timeout(40):
                assert await started.wait() == 0
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def dies(started: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        assert await started.wait() == -signal.SIGKILL


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


@pytest.mark.parametrize("point", ["claimed", "answered", "finishing", "settled"])
async def test_a_phone_is_answered_whenever_its_process_dies(tasks: Tasks, point: str) -> None:
    async with serving_fakes(delay=0.02) as served:
        env = environment(tasks.url, served) | {"TASKS_WITHOUT_KAFKA": "1"}
        for number in range(6):
            await tasks.accept(number, f"8916123456{number}")
        async with process(env, point, 4) as dying:
            await dies(dying)
        # What the others had in hand may be lost with it: each is an attempt without an end.
        ((open_attempts,),) = await tasks.query("SELECT count(*) FROM integration_attempts WHERE outcome IS NULL")
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 6)
        assert await tasks.unknown() == open_attempts <= 2 * tasks.settings.dadata_slots
        assert set(served.fakes.dadata.inputs) == {f"8916123456{number}" for number in range(6)}
        assert 6 <= served.fakes.dadata.billed <= 6 + open_attempts
        assert served.fakes.dadata.most_in_flight <= tasks.settings.dadata_slots


@pytest.mark.parametrize(("point", "extra"), [("claimed", 0), ("answered", 1), ("finishing", 1), ("settled", 0)])
async def test_one_crash_costs_at_most_one_call_and_the_metric_shows_it(
    database_url: str, point: str, extra: int
) -> None:
    async with tasks_on(database_url, **HASTE, dadata_slots=1) as tasks, serving_fakes() as served:
        env = environment(database_url, served, dadata_slots=1) | {"TASKS_WITHOUT_KAFKA": "1"}
        await tasks.accept(0, "89161234560")
        async with process(env, point) as dying:
            await dies(dying)
        for number in range(3):
            await tasks.accept(number, f"8916123456{number}")
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 3)
        assert served.fakes.dadata.billed == 3 + extra
        # Before the call or after it: from outside that cannot be told apart, and is counted as paid.
        assert await tasks.unknown() == (0 if point == "settled" else 1)
        assert served.fakes.dadata.most_in_flight == 1


async def test_a_process_killed_while_the_provider_thinks_costs_one_call(tasks: Tasks) -> None:
    async with serving_fakes() as served:
        env = environment(tasks.url, served, dadata_timeout=30) | {"TASKS_WITHOUT_KAFKA": "1"}
        served.fakes.dadata.gate.clear()
        await tasks.accept(1, "89161234567")
        async with process(env) as dying:

            async def asked() -> bool:
                return served.fakes.dadata.in_flight == 1

            await until(asked)
            dying.kill()
            await dies(dying)
        served.fakes.dadata.gate.set()
        await tasks.query("UPDATE integration_tasks SET leased_until = clock_timestamp() WHERE state = 'running'")
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 1)
        assert served.fakes.dadata.billed == 2
        assert await tasks.unknown() == 1


@pytest.mark.parametrize(("point", "billed"), [("claimed", 0), ("answered", 1), ("finishing", 1)])
async def test_a_prompt_whose_process_died_is_held(tasks: Tasks, point: str, billed: int) -> None:
    async with serving_fakes() as served:
        env = environment(tasks.url, served, yandexgpt_timeout=0.5) | {"TASKS_WITHOUT_KAFKA": "1"}
        await tasks.accept(1, "Why?", "gpt")
        async with process(env, point) as dying:
            await dies(dying)
        await tasks.query("UPDATE integration_tasks SET leased_until = clock_timestamp() WHERE state = 'running'")
        async with process(env):
            await tasks.reach("held", timeout=LONG)
        assert served.fakes.yandexgpt.billed == billed
        assert await tasks.unknown("yandexgpt") == 1
        assert await tasks.messages(RESULTS) == []


@pytest.mark.parametrize(
    ("point", "number"), [("settled", 1), ("claimed", 2), ("answered", 2), ("finishing", 1)], ids=str
)
async def test_an_operation_outlives_its_process_for_free(tasks: Tasks, point: str, number: int) -> None:
    async with serving_fakes() as served:
        env = environment(tasks.url, served, yandexgpt_mode="async") | {"TASKS_WITHOUT_KAFKA": "1"}
        await tasks.accept(1, "Why?", "gpt")
        async with process(env, point, number) as dying:
            await dies(dying)
        await tasks.query("UPDATE integration_tasks SET leased_until = clock_timestamp() WHERE state = 'running'")
        async with process(env):
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, 1)
        assert served.fakes.yandexgpt.billed == 1
        assert await tasks.unknown("yandexgpt") == 0
