"""A process with the tasks' part of the service, that kills itself at a point of a task's path.

    python -m tests.faults.task_process POINT NUMBER

It dies when it reaches POINT for the NUMBERth time; with `never` it runs until it is told to stop. Settings come from
the environment; without Kafka there (TASKS_WITHOUT_KAFKA) only the runner runs.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any
from unittest.mock import patch

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from app import lifecycle, log
from app.db import create_engine
from app.kafka.batch import Batches
from app.kafka.consumer import Consumer
from app.settings import Settings, load
from app.tasks import claims, endings, service
from app.tasks.consumer import TasksHandler
from app.tasks.outcomes import Outcome, Provider, Question
from app.tasks.providers import connect_all
from app.tasks.runner import Runner

POINTS = ("accepting", "accepted", "claimed", "answered", "finishing", "settled")


class Crash:
    def __init__(self, point: str, number: int) -> None:
        self._point, self._left = point, number

    def at(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def after(self, point: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(work)
        async def wrapped(*args: object, **options: object) -> Any:
            result = await work(*args, **options)
            if result is not None:
                self.at(point)
            return result

        return wrapped


class _Watched:
    """A provider whose answers may be the last thing that this process gets."""

    def __init__(self, provider: Provider, crash: Crash) -> None:
        self._provider, self._crash = provider, crash

    async def ask(self, question: Question) -> Outcome:
        outcome = await self._provider.ask(question)
        self._crash.at("answered")
        return outcome


async def main(crash: Crash) -> None:
    settings = load(_env_file=None)
    log.configure(settings)
    for module, name, point in (
        (claims, "claim", "claimed"),
        (endings, "finish", "finishing"),
        (service, "accept", "accepting"),
    ):
        patch.object(module, name, crash.after(point, getattr(module, name))).start()

    def watched_runner(settings: Settings, engine: AsyncEngine, providers: Any, **_: object) -> Runner:
        watched: Any = {name: _Watched(provider, crash) for name, provider in providers.items()}
        return Runner(settings, engine, watched, on_commit=lambda: crash.at("settled"))

    with lifecycle.stop_on_signals() as stop:
        engine = create_engine(settings, role="tasks", pool_size=4, deadline=settings.task_database_deadline)
        async with connect_all(settings) as providers, asyncio.TaskGroup() as group:
            group.create_task(watched_runner(settings, engine, providers).run(stop))
            if "TASKS_WITHOUT_KAFKA" not in os.environ:
                # Told of a commit before the offsets of its batch are committed.
                batches = Batches(
                    settings,
                    TasksHandler(settings),
                    name=settings.tasks_group,
                    dead_letters=settings.kafka_import_dead_letters_topic,
                    sessions=async_sessionmaker(engine),
                    on_commit=lambda: crash.at("accepted"),
                )
                consumer = Consumer(settings, batches, topics=[settings.kafka_import_topic])
                group.create_task(lifecycle.supervise("consumer", lambda: consumer.run(stop), stop))
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(Crash(sys.argv[1], int(sys.argv[2]))))
