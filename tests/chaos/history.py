"""What the load did and what the faults were, one JSON object a line, written as it happens."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self, TextIO

Outcome = Literal["ok", "fail", "info"]
"""`info`: nobody knows; a time-out, a reset connection, a 5xx."""


@dataclass(frozen=True)
class Try:
    """One try of an operation. Tries of one operation share `op_id`, and `idem_key` where they have one."""

    op_id: str
    kind: str
    idem_key: str | None
    agg: str | None
    body_sha: str
    t_invoke: float
    t_return: float
    outcome: Outcome
    http: int | None = None
    id: str | None = None
    note: str | None = None


@dataclass
class Fault:
    """A fault as it happened. Moments are seconds since 1970; `hits` counts what it really did."""

    kind: str
    planned_at: float
    start: float
    end: float = 0.0
    victim: str = ""
    hits: int = 0
    details: dict[str, object] = field(default_factory=dict)
    skipped: str = ""


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class History:
    """The file, and the same in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self.tries: list[Try] = []
        self.faults: list[Fault] = []
        self.ended_alone: list[str] = []

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, **values: object) -> None:
        if self._file is not None:
            self._file.write(json.dumps(values, default=str, ensure_ascii=False) + "\n")
            self._file.flush()

    def tried(
        self,
        op_id: str,
        kind: str,
        body: bytes,
        t_invoke: float,
        outcome: Outcome,
        *,
        idem_key: str | None = None,
        agg: str | None = None,
        http: int | None = None,
        id: str | None = None,  # noqa: A002 - the history's own word
        note: str | None = None,
    ) -> None:
        each = Try(op_id, kind, idem_key, agg, sha(body), t_invoke, time.time(), outcome, http, id, note)
        self.tries.append(each)
        self.write(**asdict(each))

    def ended(self, process: str) -> None:
        """A process ended that no fault had ended."""
        self.ended_alone.append(process)
        self.write(ended=process, t=time.time())

    @contextmanager
    def fault(self, kind: str, planned_at: float) -> Iterator[Fault]:
        """A fault, from its start to its end."""
        each = Fault(kind, planned_at, time.time())
        self.faults.append(each)
        self.write(fault=kind, phase="start", t=each.start)
        try:
            yield each
        finally:
            each.end = time.time()
            self.write(fault=kind, phase="end", t=each.end, victim=each.victim, hits=each.hits, skipped=each.skipped)
