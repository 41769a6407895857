"""Waiting for facts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

_POLL_INTERVAL = timedelta(milliseconds=20)


async def until(fact: Callable[[], Awaitable[T]], timeout: timedelta = timedelta(seconds=60)) -> T:
    """Ask again and again until the answer is true; that answer. Fails the test after `timeout`."""
    deadline = time.monotonic() + timeout.total_seconds()
    while not (answer := await fact()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{getattr(fact, '__qualname__', fact)} is still not so after {timeout}")
        await asyncio.sleep(_POLL_INTERVAL.total_seconds())
    return answer
