"""The consumers' process: what it consists of, and how it runs."""

import asyncio
import contextlib
import faulthandler
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import failpoints, lifecycle, log, metrics
from app.api.health import Readiness
from app.db import create_engine, in_transaction
from app.inbox import store
from app.kafka.batch import Batches
from app.kafka.consumer import Consumer
from app.kafka.retention import check_retention
from app.settings import Settings
from app.tasks.consumer import TasksHandler
from app.tasks.part import RunningTasks
from app.users.consumer import UsersHandler

logger = log.get(__name__)

_FORGET_EVERY = timedelta(minutes=10)
_FORGET_AT_ONCE = 5000
_BEAT = timedelta(seconds=1)
_ALARMING = timedelta(seconds=1)


class Worker:
    """All consumers of a process, and the runner of tasks. Any number of processes may run, anywhere."""

    def __init__(
        self, settings: Settings, *, on_commit: Callable[[], None] = lambda: None, accept_gap: bool = False
    ) -> None:
        """Nothing is connected yet. `on_commit` is told of each commit that may have added messages to the outbox.

        Raises ConfigurationError when this installation cannot read what it would be sent.
        """
        self._settings = settings
        self.engine = create_engine(settings, role="worker", pool_size=4, deadline=settings.consumer_database_deadline)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        users = Batches(
            settings,
            UsersHandler(settings),
            name=settings.users_group,
            dead_letters=settings.users_dead_letters_topic,
            sessions=self._sessions,
            on_commit=on_commit,
        )
        self.running_tasks = RunningTasks(settings, on_commit=on_commit)

        def accepted() -> None:
            on_commit()
            self.running_tasks.wake()

        tasks = Batches(
            settings,
            TasksHandler(settings),
            name=settings.tasks_group,
            dead_letters=settings.kafka_import_dead_letters_topic,
            sessions=self._sessions,
            on_commit=accepted,
        )
        self._inputs: dict[str, Consumer[Any]] = {
            settings.users_group: Consumer(
                settings, users, topics=[settings.users_requests_topic], accept_gap=accept_gap
            ),
            settings.tasks_group: Consumer(
                settings, tasks, topics=[settings.kafka_import_topic], accept_gap=accept_gap
            ),
        }

    @property
    def readiness(self) -> tuple[Readiness, ...]:
        """Ready while each consumer fetches from all its partitions, and no provider refuses us."""
        consumers = (Readiness(f"consumer {name}", consumer.check) for name, consumer in self._inputs.items())
        return (*consumers, self.running_tasks.readiness)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until told to stop; then finish or give up the batches in hand within CONSUMER_DRAIN_DEADLINE.

        Raises ConfigurationError when a topic keeps records for longer than the inbox remembers them.
        """
        settings = self._settings
        await check_retention(
            settings, [settings.users_requests_topic, settings.kafka_import_topic], settings.inbox_retention
        )
        tasks = [
            asyncio.create_task(lifecycle.supervise(name, partial(consumer.run, stop), stop), name=name)
            for name, consumer in self._inputs.items()
        ]
        run_tasks = partial(self.running_tasks.run, stop)
        tasks.append(asyncio.create_task(lifecycle.supervise("tasks", run_tasks, stop), name="tasks"))
        forget = partial(self._forget, stop)
        tasks.append(asyncio.create_task(lifecycle.supervise("inbox", forget, stop), name="inbox"))
        try:
            await stop.wait()
            await failpoints.reach("shutdown.before_drain")
            _, late = await asyncio.wait(tasks, timeout=settings.consumer_drain_deadline.total_seconds())
            if late:
                logger.warning("worker.stopped_late", tasks=sorted(task.get_name() for task in late))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.engine.dispose()

    async def _forget(self, stop: asyncio.Event) -> None:
        """Let the inbox forget what no repeat can come of any more; a little at a time."""
        while not stop.is_set():
            for name in self._inputs:
                while await self._forget_some(name) == _FORGET_AT_ONCE and not stop.is_set():
                    continue
            await lifecycle.wait(stop, lifecycle.jittered(_FORGET_EVERY))

    async def _forget_some(self, name: str) -> int:
        # A day more than what is refused as too old, for clocks that differ.
        retention = self._settings.inbox_retention + timedelta(days=1)

        async def work(session: AsyncSession) -> int:
            return await store.forget(session, name, retention=retention, most=_FORGET_AT_ONCE)

        return await in_transaction(self._sessions, work, deadline=self._settings.consumer_database_deadline)


@contextlib.contextmanager
def end_when_hung(limit: timedelta) -> Iterator[None]:
    """End the process when its event loop stands still for this long: what is in hand has been counted as an attempt.

    The interpreter's own watchdog does it, which needs neither the loop nor the interpreter's lock, and writes where
    each thread was to standard error. A shorter stand-still is measured, and told of once it is over.
    """

    async def beat() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            faulthandler.dump_traceback_later(limit.total_seconds(), exit=True)
            due = clock() + _BEAT.total_seconds()
            await asyncio.sleep(_BEAT.total_seconds())
            late = max(0.0, clock() - due)
            metrics.loop_late_seconds.observe(late)
            if late > _ALARMING.total_seconds():
                # Long before the limit the brokers give the partitions away: whoever wonders why finds it here.
                logger.error("loop.stood_still", seconds=round(late, 1))

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        faulthandler.cancel_dump_traceback_later()
