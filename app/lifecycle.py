"""Starting and stopping: signals, stop events, supervised tasks, bounded waits."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from app import log
from app.errors import Unavailable

logger = log.get(__name__)

_T = TypeVar("_T")

# Work that was given up and still cleans up after itself. The event loop alone would not keep it.
_given_up: set[asyncio.Task[Any]] = set()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set. A second signal ends the process at once.

    Both ways of stopping are safe: what was not settled stays owed.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def told(number: signal.Signals) -> None:
        if stop.is_set():
            logger.warning("stop.now", signal=number.name)
            os._exit(128 + number)
        logger.info("stop.asked", signal=number.name)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def wait(event: asyncio.Event, limit: timedelta) -> bool:
    """Wait for the event, at most this long. Was it set?"""
    try:
        async with asyncio.timeout(limit.total_seconds()):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def within(limit: timedelta, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, or TimeoutError after `limit`, whether `work` lets itself be cancelled or not.

    Late work is cancelled and left to end in the background: what it does to clean up (a database driver waits for a
    server that does not answer) has limits of its own, and is nothing for the caller to wait for. When the caller is
    cancelled, so is the work.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=limit.total_seconds())
    finally:
        if not task.done():
            task.cancel()
            _given_up.add(task)
            task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # is known to nobody any more; asking for it keeps asyncio from reporting it as lost


def jittered(pause: timedelta) -> timedelta:
    """About as long, so that many processes do not beat together."""
    return pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    *,
    first_pause: timedelta = timedelta(seconds=0.1),
    longest_pause: timedelta = timedelta(seconds=30),
    steady: timedelta = timedelta(seconds=5),
) -> None:
    """Run `run` until told to stop; start it again when it ends or fails before that, pausing ever longer.

    What ran for `steady`, and for longer than it had to wait before, was well: the pauses begin anew. Counted on over
    that, interruptions by others (sessions ended, a database restarted) would add up until nobody works.

    `run` gets a task of its own: a cancellation that comes out of it, and that nobody asked for, is a failure like
    others, while in our own task it could not be told from being cancelled ourselves, and `run` would be gone.
    """
    pause, paused = first_pause, timedelta(0)
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        task = asyncio.create_task(_run(run), name=name)
        await _wait_for(task)
        failure = None if task.cancelled() else task.exception()
        if stop.is_set() and failure is None and not task.cancelled():
            return
        if asyncio.get_running_loop().time() - started > max(steady, paused).total_seconds():
            pause = first_pause
        seconds = pause.total_seconds()
        match failure:
            case Unavailable():
                logger.warning("task.interrupted", task=name, reason=str(failure), pause=seconds)
            case None:
                logger.error("task.cancelled" if task.cancelled() else "task.ended", task=name, pause=seconds)
            case _:
                logger.error("task.failed", task=name, pause=seconds, exc_info=failure)
        await wait(stop, pause)
        paused, pause = pause, min(pause * 2, longest_pause)


async def _run(run: Callable[[], Awaitable[None]]) -> None:
    await run()


async def _wait_for(task: asyncio.Task[None]) -> None:
    """Wait until it has ended, whatever the end. When the caller is cancelled, so is the task, and it is waited for."""
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # or asyncio reports it as lost
        raise
