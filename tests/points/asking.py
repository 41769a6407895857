"""A process of tasks meets a fault at a point of a call. The task is answered, and what is paid is known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import httpx2

from app.errors import Unavailable
from app.tasks.runner import Runner
from tests.armed import child
from tests.failpoints import Action, Fault, Injected, armed
from tests.faults import task_process
from tests.points.answering import listening
from tests.points.answering import settings as api_settings
from tests.providing import MemoryProvider, serving_fakes
from tests.services.kafka import Kafka
from tests.services.ports import free_port
from tests.tasking import QUICK, Tasks, tasks_on

DEADLINE = 0.6
SECONDS = 1.5
"""Longer than a transaction may take, and, with the short margins of these tests, than a task is leased."""

# How often the provider was asked in vain, and how many calls count as perhaps paid, when a process dies there.
POINTS = {
    "tasks.after_accept": (0, 0),
    "tasks.after_claim": (0, 1),
    "tasks.before_call": (0, 1),
    "tasks.after_call_before_finish": (1, 1),
    "tasks.before_commit": (1, 1),
    "tasks.after_commit": (0, 0),
    "tasks.recover_before_commit": (0, 1),
    "shutdown.before_finish": (0, 0),
}
_PHONE = "89161234567"
_HASTE = QUICK | {
    "dadata_slots": 1,
    "dadata_timeout": 0.25,
    "task_lease_margin": 0.2,
    "task_database_deadline": DEADLINE,
    "log_level": "error",
}
# Where no lease has to end by itself, everybody may take their time.
_LEISURE = _HASTE | {"dadata_timeout": 5, "task_database_deadline": 5}
_RESULTS = "integration.results"
# As a process leaves it that is gone: claimed, begun, and the lease has ended.
_BEGIN = "INSERT INTO integration_attempts (task_id, provider) VALUES (1, 'dadata')"
_CLAIMED = """
    UPDATE integration_tasks SET state = 'running', leased_until = clock_timestamp(),
        attempt_id = (SELECT max(id) FROM integration_attempts)
"""
_UNKNOWN = "SELECT count(*) FROM integration_attempts WHERE outcome = 'unknown'"


async def judge(tasks: Tasks, billed: Callable[[], int], expected: tuple[int, int] | None) -> None:
    """One result, one message, and no call was paid that is not counted as such."""
    await tasks.reach("done", timeout=timedelta(seconds=60))
    ((results, done, linked),) = await tasks.query(
        "SELECT (SELECT count(*) FROM integration_service), count(*) FILTER (WHERE state = 'done'), "
        "count(*) FILTER (WHERE result_id IN (SELECT id FROM integration_service)) FROM integration_tasks"
    )
    assert results == done == linked == len(await tasks.messages(_RESULTS)) == 1
    ((unknown,),) = await tasks.query(_UNKNOWN)
    if expected is None:
        assert 1 <= billed() <= 1 + unknown
    else:
        assert (billed() - 1, unknown) == expected


async def _prepare(tasks: Tasks, point: str) -> None:
    await tasks.accept(1, _PHONE)
    if point == "tasks.recover_before_commit":
        await tasks.query(_BEGIN)
        await tasks.query(_CLAIMED)


async def die_at(point: str, database_url: str, _kafka: Kafka) -> None:
    """A process dies there; another one brings the task to its end."""
    fault = Fault(point, Action.EXIT)
    async with tasks_on(database_url, **_HASTE) as tasks, serving_fakes() as served:
        settings = _LEISURE | {"database_url": database_url, "fakes_url": served.url}  # leases are ended by hand
        if point == "tasks.after_accept":
            await _die_accepting(fault, database_url)
        else:
            await _prepare(tasks, point)
            async with child(fault=fault, program=task_process.main, settings=settings) as dying:
                if point.startswith("shutdown."):
                    await tasks.reach("done")
                    dying.terminate()
                await dying.dies()
        await tasks.end_leases()
        async with child(program=task_process.main, settings=settings) as heir:
            await heir.says("tasks.ready")
            await judge(tasks, lambda: served.fakes.dadata.billed, POINTS[point])
            await heir.stop()


async def _die_accepting(fault: Fault, database_url: str) -> None:
    port = free_port()
    command, settings = ("api", "--port", str(port)), api_settings(database_url) | {"task_wait": 0.1}
    body = {"task_id": 1, "task_type": "phone", "data": _PHONE}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        async with child(*command, fault=fault, settings=settings) as dying:
            await listening(dying, port)
            with suppress(httpx2.TransportError):
                await http.post("/api/integration_service", json=body)
                raise AssertionError("it answered")
            await dying.dies()
        async with child(*command, settings=settings) as heir:
            await listening(heir, port)
            response = await http.post("/api/integration_service", json=body)
            assert response.status_code == 202
            await heir.stop()


async def meet(fault: Fault, database_url: str) -> None:
    """A process fails, is cancelled or late there, and brings the task to its end by itself."""
    provider = MemoryProvider()
    stopping = fault.point.startswith("shutdown.")
    async with tasks_on(database_url, **_LEISURE if stopping else _HASTE) as tasks:
        with armed(fault) as arming:
            if fault.point == "tasks.after_accept":
                with suppress(Injected, Unavailable):
                    await _apart(lambda: tasks.accept(1, _PHONE))
            await _prepare(tasks, fault.point)
            async with _running(tasks, provider, may_fail=stopping):
                if stopping:
                    await tasks.reach("done")
                else:
                    await asyncio.wait_for(arming.struck.wait(), 30)
                    await judge(tasks, lambda: len(provider.billed), None)
            if stopping:
                async with _running(tasks, provider):
                    await judge(tasks, lambda: len(provider.billed), (0, 0))


async def _apart(work: Callable[[], Awaitable[Any]]) -> None:
    """Do it in a task of its own, which may be cancelled."""

    async def run() -> None:
        await work()

    task = asyncio.create_task(run())
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


@asynccontextmanager
async def _running(tasks: Tasks, provider: MemoryProvider, *, may_fail: bool = False) -> AsyncIterator[None]:
    stop = asyncio.Event()
    runner = Runner(tasks.settings, tasks.engine, {"dadata": provider, "yandexgpt": provider})
    run = asyncio.create_task(runner.run(stop))
    try:
        yield
    finally:
        stop.set()
        ends = (Injected, asyncio.CancelledError) if may_fail else ()
        with suppress(*ends):
            await asyncio.wait_for(run, 30)
