"""What routes are given."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import failpoints
from app.db import in_transaction

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Database:
    """One transaction per use case, committed when the call returns; DatabaseUnavailable after `deadline`.

    `on_commit` is told of each commit that may have added messages to the outbox.
    """

    sessions: async_sessionmaker[AsyncSession]
    deadline: timedelta
    on_commit: Callable[[], None]

    async def read(self, work: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
        """Do `work`, which changes nothing."""
        return await in_transaction(self.sessions, work, deadline=self.deadline)

    async def write(self, work: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
        """Do `work`, then wake who delivers the messages that it added."""
        result = await in_transaction(self.sessions, work, deadline=self.deadline)
        await failpoints.reach("api.after_commit")
        self.on_commit()
        return result


async def _database(request: Request) -> Database:
    return cast("Database", request.app.state.database)


DatabaseDependency = Annotated[Database, Depends(_database)]
