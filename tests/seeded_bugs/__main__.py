"""`python -m tests.seeded_bugs` seeds every bug, and prints which check caught it. Exit status 1 if one was not.

`--list` prints the table without running anything.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.seeded_bugs import BUGS


def table(outcomes: Mapping[str, str] | None = None) -> str:
    """The bugs as Markdown, with what became of each if that is given."""
    last = () if outcomes is None else ("outcome",)
    rows = [("bug", "what it does", "caught by", "invariant", *last)]
    rows.append(tuple("---" for _ in rows[0]))
    for bug in BUGS:
        ended = () if outcomes is None else (outcomes.get(bug.name, "not run"),)
        rows.append((f"`{bug.name}`", bug.what, bug.caught_by, bug.invariant, *ended))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


class _Outcomes:
    """What pytest says of each bug."""

    def __init__(self) -> None:
        self.of_bugs: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, name = report.nodeid.rpartition("::")[2].partition("[")
        name = name.rstrip("]")
        if not name or (report.when != "call" and report.passed):
            return
        if report.skipped:
            self.of_bugs[name] = "skipped: needs a real Kafka"
        elif report.failed:
            self.of_bugs[name] = "NOT CAUGHT" if test == "test_it_is_caught" else "fails without the bug, too"
        else:
            self.of_bugs.setdefault(name, "caught")


def main(arguments: list[str]) -> int:
    """Run them, unless told only to list; the exit status."""
    if arguments == ["--list"]:
        sys.stdout.write(table() + "\n")
        return 0
    outcomes = _Outcomes()
    status = pytest.main(["-q", "--no-header", str(Path(__file__).parent), *arguments], plugins=[outcomes])
    sys.stdout.write("\n" + table(outcomes.of_bugs) + "\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
