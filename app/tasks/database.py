"""The runner's two ways to the database."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from app import lifecycle
from app.db import in_transaction, is_transient, unavailable
from app.errors import Unavailable
from app.settings import Settings

_T = TypeVar("_T")


class Database:
    """Two ways to the same pool, and when it last failed."""

    def __init__(self, settings: Settings, engine: AsyncEngine) -> None:
        self._deadline = settings.task_database_deadline
        self.sessions = async_sessionmaker(engine, expire_on_commit=False)
        # One statement is a transaction by itself; asking for one costs two more round trips, and a session its upkeep.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.away_at = float("-inf")

    async def write(self, work: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
        """Do `work` in one transaction. Raises DatabaseUnavailable."""
        try:
            return await in_transaction(self.sessions, work, deadline=self._deadline)
        except Unavailable:
            self.away_at = time.monotonic()
            raise

    async def single(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Do `work`, one statement, which commits by itself. Raises DatabaseUnavailable."""
        try:
            return await lifecycle.within(self._deadline, self._single(work))
        except Exception as error:
            if not is_transient(error):
                raise
            self.away_at = time.monotonic()
            raise unavailable(error) from error

    async def _single(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        async with self._autocommit.connect() as connection:
            return await work(connection)
