"""Who works when: light traffic is one slot's, a backlog is everybody's.

K slots that poll lane by lane would move one message a transaction; one slot that takes all pending lanes in one round
moved the same traffic at half the cost and a third of the delay (reference measurement in docs/decisions). So exactly
one slot is on duty; the others rest until there is pressure (a round was full) or the one on duty takes too long.
"""

import asyncio
from datetime import timedelta

PATIENCE = timedelta(milliseconds=100)
"""A round that takes longer gives its duty to another slot, so that other lanes do not wait for it."""


class Traffic:
    """Shared by the slots of one process; used on one event loop."""

    def __init__(self) -> None:
        self.pressure = False
        self._on_duty: object | None = None
        self._resting: list[asyncio.Future[None]] = []

    async def turn(self, slot: object) -> None:
        """Wait until this slot should look for work."""
        while not (self.pressure or self._on_duty in (None, slot)):
            future = asyncio.get_running_loop().create_future()
            self._resting.append(future)
            try:
                await future
            finally:
                if future in self._resting:
                    self._resting.remove(future)
        if self._on_duty is None:
            self._on_duty = slot

    def on_duty(self, slot: object) -> bool:
        """Is it this slot that polls while nothing is owed?"""
        return self._on_duty is slot

    def hand_over(self, slot: object) -> None:
        """This slot is busy for long, or gone; another one takes the duty."""
        if self._on_duty is slot:
            self._on_duty = None
            self._wake(1)

    def call_all(self) -> None:
        """A round was full: there is work for everybody."""
        self.pressure = True
        self._wake(len(self._resting))

    def relax(self) -> None:
        """A round was not full: one slot is enough again."""
        self.pressure = False

    def release(self) -> None:
        """Stop: wake everybody, so that each sees it."""
        self.call_all()

    def _wake(self, number: int) -> None:
        waiting = [future for future in self._resting if not future.done()]
        for future in waiting[:number]:
            future.set_result(None)
