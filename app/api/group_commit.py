"""Group commit: pieces of the same work that come while a transaction is under way share the next one.

Most of what a small transaction costs is its round trips and its flush, and they are the same for one piece and for a
hundred.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.api.dependencies import Database
from app.db import sqlstate, unavailable
from app.errors import Unavailable

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")

_MOST = 64
"""Most pieces of a transaction: what is in it is lost together, and waits together."""
_AT_ONCE = 2
"""Transactions under way: one is worked on here while the other is at the database."""
_LOCK_TIMEOUT = "55P03"

Work: TypeAlias = Callable[[AsyncSession, Sequence[_Piece]], Awaitable[Sequence[_Result]]]
"""Does all pieces in the transaction of the session; their results, in their order."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[_Piece, _Result]):
    piece: _Piece
    result: asyncio.Future[_Result]

    def succeed(self, result: _Result) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class GroupCommit(Generic[_Piece, _Result]):
    """Does pieces of one work, several in a transaction when many come, and one at once when it comes alone."""

    def __init__(self, work: Work[_Piece, _Result]) -> None:
        self._work = work
        self._waiting: deque[_Waiting[_Piece, _Result]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def do(self, database: Database, piece: _Piece) -> _Result:
        """The result of `piece`, which is committed then.

        Raises what the work raises for it (nothing of it is stored then), and DatabaseUnavailable when there is no
        commit within the deadline of `database`: it may then be committed all the same.
        """
        waiting: _Waiting[_Piece, _Result] = _Waiting(piece, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._running) < _AT_ONCE:
            # In a context of its own: whose request it begins with says nothing about the others.
            task = asyncio.create_task(self._run(database), context=Context())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(database.deadline.total_seconds()):
                return await waiting.result
        except TimeoutError as error:
            raise unavailable(error) from error

    async def alone(self, piece: _Piece, session: AsyncSession) -> _Result:
        """Do `piece` in the caller's transaction."""
        (result,) = await self._work(session, [piece])
        return result

    async def _run(self, database: Database) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            await self._commit(database, group)

    async def _commit(self, database: Database, group: list[_Waiting[_Piece, _Result]]) -> None:
        group = [waiting for waiting in group if not waiting.result.done()]  # or who asked has gone
        if not group:
            return
        worked = False

        async def work(session: AsyncSession) -> Sequence[_Result]:
            nonlocal worked
            worked = False
            results = await self._work(session, [waiting.piece for waiting in group])
            worked = True
            return results

        try:
            results = await database.write(work)
        except Exception as error:  # noqa: BLE001 - it is raised where the piece came from
            if worked or len(group) == 1 or not _is_of_one(error):
                _fail(group, error)
            else:  # it was rolled back for certain
                await asyncio.gather(*(self._commit(database, [waiting]) for waiting in group))
        except BaseException as error:
            _fail(group, unavailable(error))
            raise
        else:
            for waiting, result in zip(group, results, strict=True):
                waiting.succeed(result)


def _is_of_one(error: Exception) -> bool:
    """May one piece alone be the cause? Of what says that the database does not answer, only a lock is."""
    return not isinstance(error, Unavailable) or sqlstate(error.__cause__) == _LOCK_TIMEOUT


def _fail(group: Sequence[_Waiting[_Piece, _Result]], error: Exception) -> None:
    for waiting in group:
        waiting.fail(error)
