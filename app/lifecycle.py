"""Starting and stopping: signals, stop events, supervised tasks, bounded waits."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

from app import log

logger = log.get(__name__)


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


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    *,
    first_pause: timedelta = timedelta(seconds=0.1),
    longest_pause: timedelta = timedelta(seconds=30),
) -> None:
    """Run `run` until told to stop; start it again when it ends or fails before that, pausing ever longer."""
    pause = first_pause
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        try:
            await run()
        except Exception as error:
            logger.exception("task.failed", task=name, error=type(error).__name__)
        else:
            if stop.is_set():
                return
            logger.error("task.ended", task=name)
        if asyncio.get_running_loop().time() - started > longest_pause.total_seconds():
            pause = first_pause
        await wait(stop, pause)
        pause = min(pause * 2, longest_pause)
