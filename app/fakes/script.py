"""What a fake was told to do, and what it counted."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_REMEMBERED = 10_000


class Fault(BaseModel):
    """What goes wrong with one request: an answer with an error's `status`, or, with 0, no answer at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int = Field(0, ge=0, le=599)
    message: str = ""
    retry_after: str | None = None
    billed: bool = False
    """The work was done, and is paid for; only the answer got lost or spoilt."""
    answer: str | None = None
    """Sent as it is, in place of an answer."""


class Instructions(BaseModel):
    """What a fake can be told over HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delay: float | None = Field(None, ge=0, le=600)
    """Seconds between a question and its answer."""
    faults: list[Fault] = []
    """What goes wrong with the next requests, one each."""
    always: Fault | None = None
    """What goes wrong with all requests, once `faults` are used up."""


@dataclass
class Script:
    """One fake's instructions and counters."""

    delay: timedelta = timedelta(milliseconds=50)
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers wait until it is set; what they answer is billed before."""
    requests: int = 0
    billed: int = 0
    """The bill: questions answered, whether the answer arrived or not."""
    inputs: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """What was billed last."""
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def follow(self, instructions: Instructions) -> None:
        """Do so from now on."""
        if instructions.delay is not None:
            self.delay = timedelta(seconds=instructions.delay)
        self.faults.extend(instructions.faults)
        self.always = instructions.always

    def next_fault(self) -> Fault | None:
        """What goes wrong with the request in hand, if anything."""
        return self.faults.popleft() if self.faults else self.always

    def bill(self, text: str) -> None:
        """Count one answered question."""
        self.billed += 1
        self.inputs.append(text)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """A request, from its arrival to its answer."""
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    async def take_time(self) -> None:
        """As long as the work takes."""
        await asyncio.sleep(self.delay.total_seconds())
        await self.gate.wait()

    def state(self) -> dict[str, Any]:
        """The counters, for people and for tests in other processes."""
        return {
            "requests": self.requests,
            "billed": self.billed,
            "distinct_inputs": len(set(self.inputs)),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }
