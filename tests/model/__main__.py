"""`python -m tests.model [name…]`: explore the protocol, then switch off each of its rules and see it break.

With names, only the cases whose name has one of them, with the steps of each counterexample. `--small` leaves the
large worlds out.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from tests.model.cases import BREAK, HOLD, Case
from tests.model.explorer import Explored, explore


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__.partition(":")[2])
    parser.add_argument("names", nargs="*", help="parts of names of cases")
    parser.add_argument("--small", action="store_true", help="leave the large worlds out")
    parser.add_argument("--steps", action="store_true", help="print every counterexample step by step")
    options = parser.parse_args(arguments)
    chosen = [
        [case for case in cases if _wanted(case, options.names) and not (options.small and case.large)]
        for cases in (HOLD, BREAK)
    ]
    started = time.monotonic()
    states = surprises = 0
    for cases, title, must_hold in zip(chosen, ("what must hold", "rule switched off"), (True, False), strict=True):
        if cases:
            print(
                f"\n| {title} | states | moves | {'found' if must_hold else 'found as'} |\n| --- | ---: | ---: | --- |"
            )
        for case in cases:
            found = explore(case.config)
            states += found.states
            surprises += bool(found.broken) is must_hold
            print(f"| {case.name} | {found.states:,} | {found.moves:,} | {found.broken or 'nothing'} |", flush=True)
            if found.broken and (must_hold or options.names or options.steps):
                _print_steps(found)
    print(f"\n{states:,} states in {time.monotonic() - started:.0f} s; ", end="")
    print(f"{surprises} NOT AS EXPECTED" if surprises else "all as expected")
    return 1 if surprises else 0


def _wanted(case: Case, names: Sequence[str]) -> bool:
    return not names or any(name in case.name for name in names)


def _print_steps(found: Explored) -> None:
    print()
    for number, step in enumerate(found.steps, 1):
        print(f"    {number:2}  {step}")
    print(f"        {found.broken}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
