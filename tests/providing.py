"""Third parties in tests: one in memory behind the port, and the fakes with their real wire formats."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from app.fakes import Fakes, serve
from app.tasks.outcomes import Answered, Outcome, Question, Running
from tests.waiting import until


@dataclass
class MemoryProvider:
    """A third party in memory: it answers, bills, and ends as it is told to."""

    endings: deque[Outcome] = field(default_factory=deque)
    """How the next questions end; they are answered once these are used up."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_async: bool = False
    billed: list[str] = field(default_factory=list)
    in_flight: int = 0
    _operations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate.set()

    async def ask(self, question: Question) -> Outcome:
        if question.operation_id is not None:
            return self._answer(question, self._operations[question.operation_id])
        ending = self.endings.popleft() if self.endings else None
        if ending is None or type(ending).__name__ == "Unknown":
            self.billed.append(question.text)
        self.in_flight += 1
        try:
            await self.gate.wait()
        finally:
            self.in_flight -= 1
        if ending is None and self.is_async:
            self._operations[operation_id := f"op{len(self._operations)}"] = question.text
            return Running(operation_id)
        return ending or self._answer(question, question.text)

    @staticmethod
    def _answer(question: Question, text: str) -> Answered:
        if question.task_type == "gpt":
            return Answered({"alternatives": [{"message": {"role": "assistant", "text": text[::-1]}}]}, tokens=7)
        return Answered({"source": text, question.task_type: text, "qc": 0})


@dataclass(frozen=True)
class ServedFakes:
    fakes: Fakes
    url: str

    async def quiet(self) -> None:
        """Wait until Dadata has no request in hand."""

        async def is_quiet() -> bool:
            return self.fakes.dadata.in_flight == 0

        await until(is_quiet)


@asynccontextmanager
async def serving_fakes(delay: float = 0) -> AsyncIterator[ServedFakes]:
    """The fakes on a free port, until the end of the block."""
    from app.fakes.script import Instructions

    fakes = Fakes()
    for script in (fakes.dadata, fakes.yandexgpt):
        script.follow(Instructions(delay=delay))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve(fakes, listener):
            yield ServedFakes(fakes, f"http://127.0.0.1:{listener.getsockname()[1]}")
