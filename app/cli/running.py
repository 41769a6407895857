"""What commands share: reading the settings, running a coroutine, a transaction, one line for what went wrong."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from app.errors import ConfigurationError, OutboxError, SchemaError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.settings import Settings

_T = TypeVar("_T")

_DEADLINE = timedelta(seconds=30)
"""Counting a large backlog takes seconds; nobody waits for longer."""
_YOUNG_OBJECTS = 50_000
"""So many objects make the collector look for cycles among them. A relay's round makes tens of thousands, all of them
freed without it: with Python's 700 (2,000 in newer ones) the collector took a fifth of the process's time."""
_UNDEFINED = {"42P01", "42703", "42883"}  # table, column, function


class Transactions(Protocol):
    """Do some work in a transaction of its own, committed when this returns."""

    async def __call__(self, work: "Callable[[AsyncSession], Awaitable[_T]]") -> _T:
        """Raises OutboxError, in one line, for whatever the database says."""


def settings(**overrides: object) -> "Settings":
    """The settings, and logs as they say. Raises ConfigurationError."""
    from app import log
    from app.settings import load

    loaded = load(**overrides)
    log.configure(loaded, sys.stderr)
    return loaded


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a process's coroutine to its end, on uvloop where there is one, and with a garbage collector that rests."""
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


@asynccontextmanager
async def database(loaded: "Settings") -> AsyncIterator[Transactions]:
    """A connection for transactions, one after the other."""
    import asyncpg
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import async_sessionmaker

    from app.db import create_engine, in_transaction

    engine = create_engine(loaded, role="cli", pool_size=1, deadline=_DEADLINE)
    sessions = async_sessionmaker(engine)

    async def transaction(work: "Callable[[AsyncSession], Awaitable[_T]]") -> _T:
        try:
            return await in_transaction(sessions, work, deadline=_DEADLINE)
        except (DBAPIError, asyncpg.PostgresError) as error:
            raise refused(error) from error

    try:
        yield transaction
    finally:
        await engine.dispose()


def in_database(loaded: "Settings", work: "Callable[[AsyncSession], Awaitable[_T]]") -> _T:
    """Do the work of a command in one transaction. Raises OutboxError."""

    async def main() -> _T:
        async with database(loaded) as transaction:
            return await transaction(work)

    return asyncio.run(main())


def refused(error: BaseException) -> OutboxError:
    """What a refusal of the database means for whoever gave the command, by its SQLSTATE."""
    from app.db import sqlstate

    state = sqlstate(error) or type(error).__name__
    if state in _UNDEFINED:
        return SchemaError(f"the outbox is not in this database, or an older one ({state}): run `outbox migrate`")
    if state == "42501":
        return OutboxError("this login may not do that (42501): use the tables' owner, or see `outbox roles --help`")
    if state.startswith("28"):
        return ConfigurationError(f"DATABASE_URL or POSTGRES_*: PostgreSQL refuses the login ({state})")
    if state == "3D000":
        return ConfigurationError("DATABASE_URL or POSTGRES_DB: there is no such database (3D000)")
    return OutboxError(f"PostgreSQL refused it ({state})")
