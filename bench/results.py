"""What a bench found: tables of medians, and goals that are met or missed; for people and as JSON."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

MEGABYTE = 1_000_000
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The same thing measured several times. Printed as its median, with the smallest and the largest."""

    values: tuple[float, ...]
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        middle = f"{_number(self.median)}{self.unit}"
        if len(self.values) == 1:
            return middle
        return f"{middle} ({_number(min(self.values))}–{_number(max(self.values))})"

    def to_json(self) -> dict[str, object]:
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
            "unit": self.unit.strip(),
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit that a measure should keep: at least `floor`, or at most `ceiling`."""

    what: str
    measure: Measure
    floor: float | None = None
    ceiling: float | None = None

    @property
    def met(self) -> bool:
        value = self.measure.median
        return (self.floor is None or value >= self.floor) and (self.ceiling is None or value <= self.ceiling)

    def __str__(self) -> str:
        limits = [f"{sign} {_number(x)}" for sign, x in (("≥", self.floor), ("≤", self.ceiling)) if x is not None]
        verdict = "met" if self.met else "MISSED"
        return f"{verdict}: {self.what} {self.measure}, goal {' and '.join(limits)}{self.measure.unit}"

    def to_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "measure": self.measure.to_json(),
            "floor": self.floor,
            "ceiling": self.ceiling,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by name; each has measures by column name."""

    name: str
    title: str
    rows: dict[str, dict[str, Measure]]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = field(default=())

    def __str__(self) -> str:
        columns = list(dict.fromkeys(column for row in self.rows.values() for column in row))
        lines = [["", *columns]]
        lines += [[name, *(str(row.get(column, "")) for column in columns)] for name, row in self.rows.items()]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns) + 1)]
        text = [f"{self.name}: {self.title}", ""]
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line, widths, strict=True))]
            del cells[1]
            text.append("  " + "   ".join(cells).rstrip())
        if self.goals:
            text += ["", *(f"  {goal}" for goal in self.goals)]
        if self.notes:
            text += ["", *(f"  {note}" for note in self.notes)]
        return "\n".join(text)

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "title": self.title,
            "rows": {
                name: {column: measure.to_json() for column, measure in row.items()} for name, row in self.rows.items()
            },
            "goals": [goal.to_json() for goal in self.goals],
            "notes": list(self.notes),
        }


class Found(defaultdict[str, defaultdict[str, list[float]]]):
    """What was measured, by row and column of a table, a value a round."""

    def __init__(self) -> None:
        super().__init__(lambda: defaultdict(list))

    def rows(self) -> dict[str, dict[str, Measure]]:
        """The rows of the table, in the order in which they were measured first."""
        return {
            name: {column: Measure(tuple(values)) for column, values in columns.items()}
            for name, columns in self.items()
        }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Measure:
    """Ours over theirs, round by round: what disturbed a round disturbed both."""
    return Measure(tuple(one / other for one, other in zip(ours, theirs, strict=True)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the sorted values that at least `share` of them do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[max(0, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1)]


def _number(value: float) -> str:
    """Three digits that matter; whole numbers with separators."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
