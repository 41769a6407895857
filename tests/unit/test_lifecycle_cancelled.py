"""What is supervised comes back, whatever ended it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from app.errors import Unavailable
from app.lifecycle import supervise

_SOON = timedelta(milliseconds=1)


async def _cancel_myself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def _meet_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    task.cancel()
    await task


async def _fail() -> None:
    raise KeyError


async def _be_unavailable() -> None:
    raise Unavailable("away")


async def _end() -> None:
    pass


@pytest.mark.parametrize("ending", [_cancel_myself, _meet_a_cancelled_task, _fail, _be_unavailable, _end])
async def test_it_is_started_again(ending: Callable[[], Awaitable[None]]) -> None:
    stop, runs = asyncio.Event(), list[None]()

    async def run() -> None:
        runs.append(None)
        if len(runs) == 3:
            stop.set()
        await ending()

    async with asyncio.timeout(10):
        await supervise("test", run, stop, first_pause=_SOON)
    assert len(runs) == 3


async def test_who_cancels_the_supervisor_ends_both() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    task = asyncio.create_task(supervise("test", run, asyncio.Event()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
