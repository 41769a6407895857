"""Arming the failpoints of the product: what happens at which point, at which time it is reached."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from app import failpoints

EXIT_STATUS = 86
"""Of a process that died at a failpoint, and of no other."""


class Action(StrEnum):
    EXIT = "exit"
    """The process is gone, as after kill -9: nothing is flushed, closed or said."""
    RAISE = "raise"
    CANCEL = "cancel"
    """The current task is cancelled."""
    SLEEP = "sleep"
    """The current task does not come round for a while; others do."""


class Injected(Exception):
    """What `Action.RAISE` raises: no error that the product knows."""


@dataclass(frozen=True)
class Fault:
    """`action` at `point`, when it is reached for the `nth` time. Sleeping takes `seconds`."""

    point: str
    action: Action
    nth: int = 1
    seconds: float = 1

    @property
    def arguments(self) -> list[str]:
        """For the command line of `tests.armed`."""
        return [self.point, self.action, str(self.nth), str(self.seconds)]


class Armed:
    """The hook of a process with a fault, which strikes once, and calls `tell` when it does."""

    def __init__(self, fault: Fault, tell: Callable[[], None] = lambda: None) -> None:
        self._fault = fault
        self._tell = tell
        self._reached = 0
        self.struck = asyncio.Event()

    async def __call__(self, point: str) -> None:
        fault = self._fault
        if point != fault.point:
            return
        self._reached += 1
        if self._reached != fault.nth:
            return
        self.struck.set()
        self._tell()
        match fault.action:
            case Action.EXIT:
                os._exit(EXIT_STATUS)
            case Action.RAISE:
                raise Injected(point)
            case Action.CANCEL:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case Action.SLEEP:
                await asyncio.sleep(fault.seconds)


_armed: ContextVar[Armed | None] = ContextVar("armed", default=None)
_blocks = 0


async def _strike(point: str) -> None:
    arming = _armed.get()
    if arming is not None:
        await arming(point)


@contextmanager
def armed(fault: Fault) -> Iterator[Armed]:
    """The fault in the test's own process, until the end of the block. By then it must have struck.

    Only tasks that are begun in the block can meet it, so that several tests may run at once.
    """
    global _blocks  # noqa: PLW0603 - the hook itself is one for the process
    arming = Armed(fault)
    token = _armed.set(arming)
    _blocks += 1
    failpoints.hook = _strike
    try:
        yield arming
        assert arming.struck.is_set(), f"{fault.point} was never reached"
    finally:
        _armed.reset(token)
        _blocks -= 1
        if not _blocks:
            failpoints.hook = None
