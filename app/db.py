"""PostgreSQL: engines, dedicated connections, transactions, and what its errors mean.

This is the seam where errors of the driver and of SQLAlchemy are translated (`app.errors`).
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import asyncpg
from sqlalchemy import AdaptedConnection, MetaData, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from app import lifecycle, log
from app.errors import DatabaseUnavailable
from app.lifecycle import jittered
from app.settings import DatabaseSettings

logger = log.get(__name__)

_T = TypeVar("_T")

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# The whole transaction is worth another try: it was rolled back because of others, not of itself.
_SERIALIZATION_FAILURE, _DEADLOCK = "40001", "40P01"
_RETRIES = 5
_RETRY_PAUSE = timedelta(milliseconds=25)

# Classes of SQLSTATE that say nothing about the request: connection, resources, operator, system, lock and
# statement time-outs, cancelled, read-only (a demoted primary), start-up and shutdown.
_TRANSIENT_CLASSES = ("08", "53", "57", "58", "XX")
_TRANSIENT_STATES = {"55P03", "25006", "25P03", "25P04", _SERIALIZATION_FAILURE, _DEADLOCK}

DRIVER_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that a call on a dedicated connection may raise."""


class Base(DeclarativeBase):
    """What the domains' tables derive from. The engine's tables have metadata of their own."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def _milliseconds(duration: timedelta) -> str:
    return str(max(1, round(duration / timedelta(milliseconds=1))))


def tls(settings: DatabaseSettings) -> ssl.SSLContext | bool:
    """The driver's option `ssl`: False for none."""
    mode, root = settings.database_tls
    if mode == "disable":
        return False
    context = ssl.create_default_context(cafile=root)
    if mode != "verify-full":
        context.check_hostname = False
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context


def _session_settings(role: str, *, statement: timedelta, lock: timedelta, idle: timedelta) -> dict[str, str]:
    """What each session is told at its start, so that no code can forget it."""
    return {
        "application_name": f"outbox-{role}",
        "timezone": "UTC",
        "jit": "off",  # compiling costs more than these short statements take
        "statement_timeout": _milliseconds(statement),
        "lock_timeout": _milliseconds(lock),
        "idle_in_transaction_session_timeout": _milliseconds(idle),
    }


def create_engine(
    settings: DatabaseSettings,
    *,
    role: str,
    pool_size: int,
    deadline: timedelta,
) -> AsyncEngine:
    """A pool for one role of one process (`api`, `cli`, …).

    At most `pool_size` connections; waiting for one, connecting and one statement each take at most `deadline`.
    Nothing is connected yet.
    """
    seconds = deadline.total_seconds()
    engine = create_async_engine(
        settings.database,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=seconds,
        pool_recycle=1800,
        hide_parameters=True,  # bound values must not reach an error text
        connect_args={
            "timeout": min(seconds, settings.connect_timeout.total_seconds()),
            # statement_timeout is the server's; a frozen server or network ends nothing. Without this, nothing would
            # end a COMMIT: SQLAlchemy lets it run to completion even when its task is cancelled.
            "command_timeout": seconds,
            "ssl": tls(settings),
            "server_settings": _session_settings(
                role, statement=deadline, lock=settings.lock_timeout, idle=deadline + timedelta(seconds=5)
            ),
        },
    )
    event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    return engine


def _replace_if_closed(connection: AdaptedConnection, _record: object, _proxy: object) -> None:
    """Tell the pool to connect anew when the server has closed an idle connection, as it does when it restarts.

    Costs nothing, unlike a ping, and spares the next request a 503. A connection that nobody closed and that is dead
    all the same is found out by its first statement.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError


async def connect(
    settings: DatabaseSettings,
    *,
    role: str,
    statement: timedelta,
    idle: timedelta,
    extra: Mapping[str, str] | None = None,
) -> asyncpg.Connection:
    """A dedicated connection without a pool, for a slot of the relay.

    Every call on it has a client-side time-out a little above `statement`, because a frozen server
    or network answers nothing at all. Raises DatabaseUnavailable.
    """
    url = settings.database
    options = url.translate_connect_args(username="user") | dict(url.query)
    try:
        return await asyncpg.connect(
            **options,
            ssl=tls(settings),
            timeout=settings.connect_timeout.total_seconds(),
            command_timeout=statement.total_seconds() + 2,
            server_settings=_session_settings(role, statement=statement, lock=statement, idle=idle) | dict(extra or {}),
        )
    except DRIVER_ERRORS as error:
        raise unavailable(error) from error


def sqlstate(error: BaseException | None) -> str | None:
    """The five-character code of a driver's or SQLAlchemy's error, if the server gave one."""
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return state if isinstance(state, str) else None


def constraint(error: DBAPIError) -> str | None:
    """The name of the constraint that a statement broke."""
    driver_error = getattr(error.orig, "__cause__", None)
    name = getattr(driver_error, "constraint_name", None)
    return name if isinstance(name, str) else None


def is_transient(error: BaseException) -> bool:
    """Says this error nothing about the request, only about the database or the way to it?

    Decided by SQLSTATE: SQLAlchemy wraps nearly everything as a plain DBAPIError.
    """
    if isinstance(error, OSError | TimeoutError | PoolTimeoutError | InterfaceError | asyncpg.InterfaceError):
        return True
    if isinstance(error, asyncpg.InternalClientError):  # the session ended while a statement was being sent
        return True
    state = sqlstate(error)
    if state is not None:
        return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES
    return isinstance(error, DBAPIError) and (error.connection_invalidated or state is None)


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """The error to raise for a transient one: its kind, never its text, which may quote values."""
    return DatabaseUnavailable(f"the database did not answer ({sqlstate(error) or type(error).__name__})")


async def in_transaction(
    sessions: async_sessionmaker[AsyncSession],
    work: Callable[[AsyncSession], Awaitable[_T]],
    *,
    deadline: timedelta,
) -> _T:
    """Do `work` in one transaction; it is committed when this returns.

    A deadlock or a serialisation failure repeats the whole transaction a few times, so `work` must
    have no effect outside the session. Raises what `work` raises (nothing is stored then), and
    DatabaseUnavailable when the database did not answer within `deadline`: a transaction whose COMMIT
    was on its way may then have been committed.
    """
    try:
        return await lifecycle.within(deadline, _repeat(sessions, work))
    except (DBAPIError, PoolTimeoutError, OSError, TimeoutError, asyncpg.InterfaceError) as error:
        if is_transient(error):
            raise unavailable(error) from error
        raise


async def _repeat(sessions: async_sessionmaker[AsyncSession], work: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
    for left in reversed(range(_RETRIES)):
        try:
            async with sessions.begin() as session:
                return await work(session)
        except DBAPIError as error:
            if left == 0 or sqlstate(error) not in (_SERIALIZATION_FAILURE, _DEADLOCK):
                raise
            logger.info("transaction.repeated", sqlstate=sqlstate(error), left=left)
            await asyncio.sleep(jittered(_RETRY_PAUSE).total_seconds())
    raise AssertionError("unreachable: the last try returns or raises")
