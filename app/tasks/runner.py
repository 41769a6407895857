"""Asks the providers about tasks that are due, any number of processes at a time.

One queue a provider, so that none waits for another. A queue claims a task together with a slot (a short
transaction), asks outside of any transaction, and settles (a short transaction). The slot is free for the next call
as soon as the answer is there; settling goes on beside it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app import failpoints, lifecycle
from app.settings import Settings
from app.tasks import claims, endings, measures, settling
from app.tasks.database import Database
from app.tasks.outcomes import Provider, ProviderName
from app.tasks.queue import Queue

_RECOVER_INTERVAL = timedelta(seconds=1)


class Runner:
    """All queues of one process. `wake` tells it that a task was accepted in this process."""

    def __init__(
        self,
        settings: Settings,
        engine: AsyncEngine,
        providers: Mapping[ProviderName, Provider],
        *,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        database = Database(settings, engine)
        self._queues = [Queue(settings, database, name, provider, on_commit) for name, provider in providers.items()]
        self._settings, self._database, self._on_commit = settings, database, on_commit

    def wake(self) -> None:
        """Look for due tasks now."""
        for queue in self._queues:
            queue.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until told to stop; calls under way are waited for, at most TASK_STOP_DEADLINE."""
        async with asyncio.TaskGroup() as group:
            for queue in self._queues:
                group.create_task(lifecycle.supervise(f"tasks.{queue.name}", partial(queue.run, stop), stop))
            group.create_task(lifecycle.supervise("tasks.recover", partial(self._recover, stop), stop))
            group.create_task(
                lifecycle.supervise(
                    "tasks.measures", partial(measures.keep, self._database.sessions, self._settings, stop), stop
                )
            )

    async def _recover(self, stop: asyncio.Event) -> None:
        """Settle what processes left behind that are gone.

        A database that was away has let leases run out whose owners are alive and have answers in hand: after such a
        time they get a whole margin to bring them.
        """
        while not stop.is_set():
            if time.monotonic() - self._database.away_at > self._settings.task_lease_margin.total_seconds():
                while await self._database.write(self._recover_one):
                    self._on_commit()
            await lifecycle.wait(stop, lifecycle.jittered(_RECOVER_INTERVAL))

    async def _recover_one(self, session: AsyncSession) -> bool:
        claim = await claims.lost(session, self._settings.task_deadline)
        if claim is None:
            return False
        # An operation is known by its id, and asking again costs nothing.
        if claim.operation_id is not None:
            await endings.postpone(session, claim, operation_id=claim.operation_id)
        else:
            await settling.settle(session, claim, settling.LOST, self._settings)
        await failpoints.reach("tasks.recover_before_commit")
        return True
