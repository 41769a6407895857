"""What a run tells besides its verdict: how long things took, how much came twice."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from tests.chaos.evidence import Evidence
from tests.chaos.history import Fault
from tests.judge import _header


@dataclass(frozen=True)
class Measured:
    """A row of the report, in seconds or in pieces."""

    what: str
    count: int
    median: float
    most: float
    unit: str = "s"


def measure(evidence: Evidence) -> list[Measured]:
    rows = [
        _row("lanes taken over after kill -9 of their relay", _details(evidence, "kill-relay", "taken_over_after")),
        _row("lanes taken over after SIGSTOP of their relay", _details(evidence, "freeze-relay", "taken_over_after")),
        _row("repeats per kill -9 of a relay", _repeats(evidence, "kill-relay"), "messages"),
        _row("repeats per SIGSTOP of a relay", _repeats(evidence, "freeze-relay"), "messages"),
    ]
    kinds = dict.fromkeys(fault.kind for fault in evidence.faults if fault.hits)
    rows += [_row(f"all delivered that was owed at the end of {kind}", _recoveries(evidence, kind)) for kind in kinds]
    answers = [each.t_return - each.t_invoke for each in evidence.tries if each.outcome == "ok" and each.http]
    rows.append(_row("an acknowledgement over HTTP", answers))
    return [row for row in rows if row is not None]


def _row(what: str, values: Iterable[float], unit: str = "s") -> Measured | None:
    found = sorted(values)
    if not found:
        return None
    return Measured(what, len(found), round(statistics.median(found), 3), round(found[-1], 3), unit)


def _details(evidence: Evidence, kind: str, name: str) -> list[float]:
    values = [fault.details.get(name) for fault in evidence.faults if fault.kind == kind]
    return [value for value in values if isinstance(value, float)]


def _alone(fault: Fault, faults: Sequence[Fault], after: float) -> bool:
    """Was no other fault near, that what is measured could come from?"""
    return not any(
        other is not fault and other.start < fault.end + after and other.end + after > fault.start for other in faults
    )


def _settled_at(evidence: Evidence) -> dict[UUID, float]:
    return {move.message_id: move.at for move in evidence.moved if move.what == "receipt"}


def _repeats(evidence: Evidence, kind: str) -> list[int]:
    """Copies more than one of what was owed when the fault began."""
    copies = Counter(
        UUID(_header(record, "ce_id"))
        for topic, records in evidence.records.items()
        if topic not in evidence.groups
        for record in records
    )
    settled = _settled_at(evidence)
    return [
        sum(
            count - 1
            for message_id, count in copies.items()
            if evidence.added_at.get(message_id, 0) <= fault.start < settled.get(message_id, 0)
        )
        for fault in evidence.faults
        if fault.kind == kind and fault.hits and _alone(fault, evidence.faults, 1)
    ]


def _recoveries(evidence: Evidence, kind: str) -> list[float]:
    """From the end of the fault until the last message that was owed then was delivered."""
    settled = _settled_at(evidence)
    found = []
    for fault in evidence.faults:
        if fault.kind == kind and fault.hits and _alone(fault, evidence.faults, 1):
            owed = [
                settled[message_id]
                for message_id, at in evidence.added_at.items()
                if at <= fault.end < settled.get(message_id, 0)
            ]
            found.append(max(owed, default=fault.end) - fault.end)
    return found
