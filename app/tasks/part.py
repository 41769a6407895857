"""The runner as a part of a process, with its clients and its pool."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import log
from app.api.health import Readiness
from app.db import create_engine, in_transaction
from app.errors import Unavailable
from app.settings import Settings
from app.tasks import gates
from app.tasks.providers import connect_all, dadata, yandexgpt
from app.tasks.runner import Runner

logger = log.get(__name__)


def in_use(settings: Settings) -> dict[str, tuple[str, bool]]:
    """Where each provider is asked, and whether that is a fake."""
    yandexgpt_url, _, is_fake = yandexgpt.locate(settings)
    return {"dadata": dadata.locate(settings), "yandexgpt": (yandexgpt_url, is_fake)}


class RunningTasks:
    """Runs tasks with the process. Any number of processes may.

    `on_commit` is called after each commit that may have added messages to the outbox.
    """

    def __init__(self, settings: Settings, *, on_commit: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_commit = on_commit
        self._runner: Runner | None = None
        self._sessions: async_sessionmaker[AsyncSession] | None = None

    def wake(self) -> None:
        """A task was accepted in this process."""
        if self._runner is not None:
            self._runner.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Run tasks until told to stop, then finish what is in hand."""
        settings = self._settings
        for provider, (url, is_fake) in in_use(settings).items():
            logger.info("provider.fake" if is_fake else "provider.real", provider=provider, url=url)
        engine = create_engine(
            settings, role="tasks", pool_size=settings.task_pool_size, deadline=settings.task_database_deadline
        )
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        try:
            async with connect_all(settings) as providers:
                self._runner = Runner(settings, engine, providers, on_commit=self._on_commit)
                await self._runner.run(stop)
        finally:
            self._runner = self._sessions = None
            await engine.dispose()

    @property
    def readiness(self) -> Readiness:
        """Ready while no provider refuses us."""
        return Readiness("providers", self._check_providers)

    async def _check_providers(self) -> None:
        """Raise Unavailable while a provider refuses our key, or we have not paid; its tasks wait."""
        if self._sessions is None:
            raise Unavailable("tasks do not run; they are started again")
        states = await in_transaction(
            self._sessions, lambda session: gates.states(session, self._settings), deadline=timedelta(seconds=1)
        )
        blocked = [f"{gate.provider} refuses us ({gate.blocked})" for gate in states if gate.blocked is not None]
        if blocked:
            raise Unavailable("; ".join(blocked))
