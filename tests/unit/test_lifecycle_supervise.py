"""What is supervised is started again, ever later while it fails, and soon when it had been well."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from app import lifecycle
from app.errors import DatabaseUnavailable

PAUSE = timedelta(milliseconds=20)
STEADY = timedelta(milliseconds=300)


async def pauses(*well_for: float) -> list[float]:
    """The pauses after runs that lasted so long (seconds) and were then interrupted."""
    stop, runs = asyncio.Event(), iter(well_for)

    async def run() -> None:
        try:
            duration = next(runs)
        except StopIteration:
            stop.set()
            return
        await asyncio.sleep(duration)
        raise DatabaseUnavailable("its session was ended")

    with capture_logs() as logs:
        async with asyncio.timeout(30):
            await lifecycle.supervise("work", run, stop, first_pause=PAUSE, steady=STEADY)
    return [entry["pause"] for entry in logs if entry["event"] == "task.interrupted"]


async def test_what_fails_at_once_waits_ever_longer() -> None:
    assert await pauses(0, 0, 0, 0) == [0.02, 0.04, 0.08, 0.16]


async def test_interruptions_long_after_one_another_do_not_add_up() -> None:
    assert await pauses(0, 0, 0, 0.5, 0, 0.5) == [0.02, 0.04, 0.08, 0.02, 0.04, 0.02]


async def test_what_ran_for_less_than_it_had_waited_was_not_well() -> None:
    assert (await pauses(0, 0, 0, 0, 0, 0, 0.4))[-2:] == [0.64, 1.28]


@pytest.mark.parametrize("error", [ValueError("wrong"), None])
async def test_an_end_of_any_kind_is_told_and_followed_by_a_start(error: Exception | None) -> None:
    stop, runs = asyncio.Event(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            stop.set()
        elif error is not None:
            raise error

    with capture_logs() as logs:
        await lifecycle.supervise("work", run, stop, first_pause=PAUSE)
    assert runs == 3
    assert [entry["event"] for entry in logs] == ["task.failed" if error else "task.ended"] * 2
    assert all((entry.get("exc_info") is error) for entry in logs)
