"""A limit that holds whatever the work does."""

import asyncio
from datetime import timedelta

import pytest

from app.lifecycle import within

_SHORT, _LONG = timedelta(milliseconds=10), timedelta(seconds=30)


async def test_the_result_comes_back() -> None:
    async def work() -> str:
        return "done"

    assert await within(_LONG, work()) == "done"


async def test_the_error_comes_back() -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await within(_LONG, work())


async def test_work_that_resists_is_left_behind() -> None:
    told, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.set()
            await go.wait()  # cleans up as long as it likes
            ended.set()
            raise RuntimeError("nobody hears this") from None

    with pytest.raises(TimeoutError):
        await within(_SHORT, work())
    async with asyncio.timeout(_LONG.total_seconds()):
        await told.wait()
        assert not ended.is_set()
        go.set()
        await ended.wait()


async def test_cancelling_the_caller_cancels_the_work() -> None:
    begun, told = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.set()

    caller = asyncio.create_task(within(_LONG, work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    async with asyncio.timeout(_LONG.total_seconds()):
        await told.wait()
