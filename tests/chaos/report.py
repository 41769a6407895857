"""What a run has to say: for people as tables, for programs as JSON."""

from collections import Counter
from dataclasses import asdict, dataclass, field

from app.cli import printing
from tests.chaos.history import Fault
from tests.chaos.judge import Verdict
from tests.chaos.measures import Measured
from tests.chaos.schedule import KINDS


@dataclass
class Report:
    """All of a run."""

    seed: int
    minutes: float
    brokers: int
    chosen: list[str]
    load: dict[str, Counter[str]]
    faults: list[Fault]
    ended_alone: list[str]
    verdicts: list[Verdict] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)

    @property
    def sometimes(self) -> dict[str, int]:
        """How often each chosen fault hit something."""
        return {
            kind: sum(fault.hits > 0 for fault in self.faults if fault.kind == kind)
            for kind in KINDS
            if kind in self.chosen
        }

    @property
    def skipped(self) -> dict[str, str]:
        """Faults that this machine does not permit, and why."""
        return {fault.kind: fault.skipped for fault in self.faults if fault.skipped}

    @property
    def missed(self) -> list[str]:
        return [kind for kind, hits in self.sometimes.items() if not hits and kind not in self.skipped]

    @property
    def holds(self) -> bool:
        return not self.missed and not self.ended_alone and all(not verdict.violations for verdict in self.verdicts)

    def as_json(self) -> str:
        return printing.as_json(
            {
                "holds": self.holds,
                "seed": self.seed,
                "minutes": self.minutes,
                "brokers": self.brokers,
                "numbers": self.numbers,
                "load": self.load,
                "sometimes": self.sometimes,
                "skipped": self.skipped,
                "missed": self.missed,
                "ended_alone": self.ended_alone,
                "invariants": [asdict(verdict) for verdict in self.verdicts],
                "measured": [asdict(row) for row in self.measured],
                "faults": [asdict(fault) for fault in self.faults],
            }
        )

    def show(self) -> None:
        """Print the tables."""
        console = printing.console()
        console.print(
            printing.table(
                ("load", "ok", "refused", "unknown"), [_load(kind, ends) for kind, ends in self.load.items()]
            )
        )
        console.print(printing.table(("fault", "times", "hit", "what"), [self._fault(kind) for kind in self.chosen]))
        console.print(
            printing.table(("measured", "cases", "median", "most", "in", ""), [_measured(row) for row in self.measured])
        )
        console.print(
            printing.table(("", "invariant", "checked", "broken"), [_verdict(each) for each in self.verdicts])
        )
        for verdict in self.verdicts:
            for violation in verdict.shown:
                print(f"  {verdict.name}: {violation}")
        for name in self.ended_alone:
            print(f"  {name} ended by itself")
        for kind in self.missed:
            print(f"  {kind} was chosen and never happened")
        for what, number in self.numbers.items():
            print(f"{what}: {number}")
        print(f"{'everything held' if self.holds else 'NOT as promised'} (seed {self.seed})")

    def _fault(self, kind: str) -> tuple[object, ...]:
        times = sum(fault.kind == kind for fault in self.faults)
        only = next(
            (fault.details["only"] for fault in self.faults if fault.kind == kind and "only" in fault.details), ""
        )
        why = self.skipped.get(kind) or only
        what = f"{KINDS[kind].what} ({why})" if why else KINDS[kind].what
        return kind, times, "skipped" if kind in self.skipped else self.sometimes[kind], what


def _load(kind: str, ends: Counter[str]) -> tuple[object, ...]:
    return kind, ends["ok"], ends["fail"], ends["info"]


def _measured(row: Measured) -> tuple[object, ...]:
    return row.what, row.count, f"{row.median:g}", f"{row.most:g}", row.unit, "" if row.alone else "with other faults"


def _verdict(each: Verdict) -> tuple[object, ...]:
    return each.name, each.statement, each.checked, len(each.violations)
