"""A relay that dies is started again, and meanwhile its process is not ready."""

import asyncio
from datetime import timedelta

import pytest

from app.cli import relaying
from app.errors import Unavailable
from app.settings import load
from tests.waiting import until


class Mortal:
    """Like a relay; ends when it is told to."""

    started: list["Mortal"]

    def __init__(self, *_: object) -> None:
        self.die = asyncio.Event()
        self.woken = 0
        self.idle_for = timedelta(0)
        Mortal.started.append(self)

    def wake(self) -> None:
        self.woken += 1

    async def run(self, stop: asyncio.Event) -> None:
        dying = asyncio.create_task(self.die.wait())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({dying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (dying, stopping):
            task.cancel()
        if self.die.is_set():
            raise RuntimeError("died")


async def test_a_dead_relay_is_noticed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    Mortal.started = []
    monkeypatch.setattr(relaying, "Relay", Mortal)
    relay = relaying.SupervisedRelay(load(_env_file=None, relay_stalled_after=30))
    relay.wake()  # nobody to wake yet
    with pytest.raises(Unavailable, match="does not run"):
        await relay.readiness.check()
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    async def started(number: int) -> bool:
        return len(Mortal.started) == number

    await until(lambda: started(1))
    await relay.readiness.check()
    relay.wake()
    assert Mortal.started[0].woken == 1
    Mortal.started[0].idle_for = timedelta(seconds=31)
    with pytest.raises(Unavailable, match="no slot finished a round for 31 s"):
        await relay.readiness.check()
    Mortal.started[0].die.set()

    async def not_ready() -> bool:
        try:
            await relay.readiness.check()
        except Unavailable as error:
            return "does not run" in str(error)
        return False

    await until(not_ready)
    await until(lambda: started(2))
    await relay.readiness.check()
    stop.set()
    await running
    assert await started(2)
