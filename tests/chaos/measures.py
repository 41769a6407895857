"""What a run tells besides its verdict: how long things took, how much came twice."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from tests.chaos.evidence import Evidence
from tests.chaos.history import Fault, Try
from tests.judge import _header

_NEAR = 1.0
"""Seconds."""


@dataclass(frozen=True)
class Measured:
    """A row of the report, in seconds or in pieces."""

    what: str
    count: int
    median: float
    most: float
    unit: str = "s"
    alone: bool = True
    """Was no other fault near in any of the cases? Else they cost each other time."""


def measure(evidence: Evidence) -> list[Measured]:
    rows = [
        _of_faults("lanes taken over after kill -9 of their relay", evidence, "kill-relay", _taken_over),
        _of_faults("lanes taken over after SIGSTOP of their relay", evidence, "freeze-relay", _taken_over),
        _of_faults("repeats per kill -9 of a relay", evidence, "kill-relay", _repeats(evidence), "messages"),
        _of_faults("repeats per SIGSTOP of a relay", evidence, "freeze-relay", _repeats(evidence), "messages"),
    ]
    answers = [each for each in evidence.tries if each.outcome == "ok" and each.http]
    rows.append(_row("an acknowledgement over HTTP", [each.t_return - each.t_invoke for each in answers]))
    for kind in dict.fromkeys(fault.kind for fault in evidence.faults if fault.hits):
        rows.append(_of_faults(f"first 2xx after the end of {kind}", evidence, kind, _answered(answers)))
        rows.append(_of_faults(f"backlog delivered after the end of {kind}", evidence, kind, _delivered(evidence)))
    return [row for row in rows if row is not None]


def _row(what: str, values: Iterable[float], unit: str = "s", *, alone: bool = True) -> Measured | None:
    found = sorted(values)
    if not found:
        return None
    return Measured(what, len(found), round(statistics.median(found), 3), round(found[-1], 3), unit, alone)


def _taken_over(fault: Fault) -> float | None:
    took = fault.details.get("taken_over_after")
    return took if isinstance(took, float) else None


def _of_faults(
    what: str, evidence: Evidence, kind: str, value: Callable[[Fault], float | None], unit: str = "s"
) -> Measured | None:
    """Of the faults that had no other one near, if there are any, else of all of this kind."""
    faults = [fault for fault in evidence.faults if fault.kind == kind and fault.hits]
    alone = [fault for fault in faults if _alone(fault, evidence.faults)]
    values = [found for fault in alone or faults if (found := value(fault)) is not None]
    return _row(what, values, unit, alone=bool(alone))


def _alone(fault: Fault, faults: Sequence[Fault]) -> bool:
    return not any(
        other is not fault and other.start < fault.end + _NEAR and other.end + _NEAR > fault.start for other in faults
    )


def _settled_at(evidence: Evidence) -> dict[UUID, float]:
    return {move.message_id: move.at for move in evidence.moved if move.what == "receipt"}


def _repeats(evidence: Evidence) -> Callable[[Fault], float | None]:
    """Copies more than one of what was owed when the fault began."""
    copies = Counter(
        UUID(_header(record, "ce_id"))
        for topic, records in evidence.records.items()
        if topic not in evidence.groups
        for record in records
    )
    settled = _settled_at(evidence)

    def repeats(fault: Fault) -> float:
        return sum(
            count - 1
            for message_id, count in copies.items()
            if evidence.added_at.get(message_id, 0) <= fault.start < settled.get(message_id, 0)
        )

    return repeats


def _answered(answers: Sequence[Try]) -> Callable[[Fault], float | None]:
    """From the end of the fault to the first acknowledgement of a request sent after it."""

    def after(fault: Fault) -> float | None:
        first = min((each.t_return for each in answers if each.t_invoke >= fault.end), default=None)
        return None if first is None else first - fault.end

    return after


def _delivered(evidence: Evidence) -> Callable[[Fault], float | None]:
    """From the end of the fault until the last message that was owed then was delivered."""
    settled = _settled_at(evidence)

    def after(fault: Fault) -> float:
        owed = [
            settled[message_id]
            for message_id, at in evidence.added_at.items()
            if at <= fault.end < settled.get(message_id, 0)
        ]
        return max(owed, default=fault.end) - fault.end

    return after
