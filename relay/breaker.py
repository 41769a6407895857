"""The breaker of the broker: one a process, because another relay may still reach Kafka.

Closed: slots claim. Open: nobody claims. Half-open, once the pause is over: one slot claims one message; metadata is
no proof, only a confirmed message (or an answer that concerns the message or its topic) closes the breaker.
"""

import enum
import time
from collections.abc import Callable
from datetime import timedelta


class Permit(enum.Enum):
    """What a slot may do now."""

    CLAIM = "claim"
    PROBE = "probe"
    REST = "rest"


class Breaker:
    """Open while no broker acknowledges. Times by the process's monotonic clock; nothing else depends on them."""

    def __init__(
        self, *, first_pause: timedelta, longest_pause: timedelta, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._longest, self._clock = first_pause.total_seconds(), longest_pause.total_seconds(), clock
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False
        self.answered_at = clock()
        """When the broker last answered anything (monotonic seconds)."""

    @property
    def closed(self) -> bool:
        """Nothing is known to be wrong."""
        return self._failures == 0

    def permit(self) -> Permit:
        """Ask before each round. A PROBE must be ended by `answered`, `failed` or `unused`."""
        if self.closed:
            return Permit.CLAIM
        if self._probing or self._clock() < self._retry_at:
            return Permit.REST
        self._probing = True
        return Permit.PROBE

    def answered(self) -> None:
        """The broker answered: it is there, whatever it said of a message or a topic."""
        self._failures = 0
        self._probing = False
        self.answered_at = self._clock()

    def failed(self) -> None:
        """Nothing was acknowledged; pause, twice as long each time."""
        pause = min(self._longest, self._first * 2.0 ** min(self._failures, 60))  # far beyond any longest pause
        if self._probing or self.closed:  # slots that fail together count once
            self._failures += 1
        self._probing = False
        self._retry_at = self._clock() + pause

    def unused(self) -> None:
        """The probe had nothing to send; whoever asks next may probe."""
        self._probing = False
