"""Tasks in tests: a database with runners on it, and what came of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from app.db import create_engine, in_transaction
from app.settings import Settings, load
from app.tasks import measures, service
from app.tasks.outcomes import Provider, ProviderName, TaskType
from app.tasks.runner import Runner
from app.tasks.schemas import NewTask
from app.tasks.service import Accepted
from tests.providing import MemoryProvider
from tests.relaying import no_lost_errors
from tests.waiting import until

QUICK: dict[str, object] = {
    "connect_timeout": 30,  # a busy machine is no outage
    "dadata_rate": 0,
    "yandexgpt_rate": 0,
    "yandexgpt_poll": 0.01,
    "task_retry_min": 0.01,
    "task_retry_max": 0.05,
    "task_poll_max": 0.05,
    "task_lease_margin": 1,
    "provider_pause_min": 0.05,
    "provider_pause_max": 0.2,
}
"""Settings for tests that wait for what they say."""


def quick(database_url: str, **overrides: object) -> Settings:
    return load(_env_file=None, database_url=database_url, **(QUICK | overrides))


@dataclass(frozen=True)
class Tasks:
    """Tasks in one database."""

    settings: Settings
    engine: AsyncEngine

    @property
    def url(self) -> str:
        return self.engine.url.render_as_string(hide_password=False)

    @property
    def sessions(self) -> async_sessionmaker[Any]:
        return async_sessionmaker(self.engine, expire_on_commit=False)

    async def accept(self, task_id: int, data: str, task_type: TaskType = "phone") -> Accepted:
        new = NewTask(task_id=task_id, task_type=task_type, data=data)
        return await in_transaction(
            self.sessions,
            lambda session: service.send(session, new, settings=self.settings),
            deadline=timedelta(seconds=20),
        )

    async def query(self, statement: str, **values: object) -> list[Any]:
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def states(self) -> dict[int, str]:
        return dict(await self.query("SELECT task_id, state FROM integration_tasks"))

    async def reach(self, state: str, *task_ids: int, timeout: timedelta = timedelta(seconds=60)) -> None:
        """Wait until these tasks (all, if none is named) are in this state."""

        async def reached() -> bool:
            states = await self.states()
            return all(states[task_id] == state for task_id in task_ids or states)

        await until(reached, timeout)

    async def end_leases(self) -> None:
        """As if time had passed: what a process that is gone has leased is free."""
        await self.query("UPDATE integration_tasks SET leased_until = clock_timestamp() WHERE state = 'running'")
        await self.query("UPDATE integration_slots SET leased_until = '-infinity'")

    async def messages(self, topic: str) -> list[str]:
        rows = await self.query(
            "SELECT convert_from(payload, 'UTF8') FROM outbox_messages WHERE topic = :topic ORDER BY id", topic=topic
        )
        return [row[0] for row in rows]

    async def unknown(self, provider: str = "dadata") -> int:
        """What the metric says of calls whose outcome is unknown."""
        async with self.sessions() as session:
            await measures.measure(session, self.settings)
        return int(measures.unknown.labels(provider)._value.get())


@asynccontextmanager
async def tasks_on(database_url: str, **overrides: object) -> AsyncIterator[Tasks]:
    settings = quick(database_url, **overrides)
    engine = create_engine(settings, role="test", pool_size=6, deadline=timedelta(seconds=20))
    yield Tasks(settings, engine)
    await engine.dispose()


@dataclass(frozen=True)
class Running:
    runner: Runner
    engine: AsyncEngine
    stop: asyncio.Event
    task: asyncio.Task[None]


@asynccontextmanager
async def running(
    settings: Settings, providers: Mapping[ProviderName, Provider] | MemoryProvider
) -> AsyncIterator[Running]:
    """A runner with a pool of its own, as one process has it; it stops in time and leaves nothing behind."""
    if isinstance(providers, MemoryProvider):
        providers = {"dadata": providers, "yandexgpt": providers}
    engine = create_engine(
        settings, role="tasks", pool_size=settings.task_pool_size, deadline=settings.task_database_deadline
    )
    with no_lost_errors():
        stop = asyncio.Event()
        runner = Runner(settings, engine, providers)
        task = asyncio.create_task(runner.run(stop))
        try:
            yield Running(runner, engine, stop, task)
        finally:
            stop.set()
            async with asyncio.timeout(settings.task_stop_deadline.total_seconds() + 15):
                await task
            await engine.dispose()
