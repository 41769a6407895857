"""`python -m tests.chaos`: faults on real processes under load, and a machine's verdict."""

import argparse
import asyncio
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.processes import ROOT
from tests.chaos.schedule import KINDS, Planned, plan

_MEMORY_A_BROKER = 1 << 30
_WRONG_USAGE = 2


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="outbox chaos",
        description="Load on all domains, faults on real processes, PostgreSQL and Kafka, and then a verdict. "
        "Exit code 1 if anything was not as promised.",
        epilog="faults: " + "; ".join(f"{kind.name}: {kind.what}" for kind in KINDS.values()),
    )
    parser.add_argument("--seed", type=int, help="schedule of the faults; random if not given")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (2); each fault comes at least once")
    parser.add_argument("--faults", help="only these, separated by commas; all if not given")
    parser.add_argument("--alone", action="store_true", help="one fault at a time, to measure what follows from each")
    parser.add_argument("--brokers", type=int, choices=(1, 3), help="3, or 1 on a small machine")
    parser.add_argument("--directory", type=Path, help="for the history and the logs; below build/chaos if not given")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--plan", action="store_true", help="print the schedule, and do nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 1_000_000)
    chosen = options.faults.split(",") if options.faults else list(KINDS)
    try:
        planned = plan(seed, options.minutes, chosen, alone=options.alone)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return _WRONG_USAGE
    print(f"seed {seed}", file=sys.stderr, flush=True)
    if options.plan:
        for each in planned:
            print(f"{each.at:7.1f} s  {each.kind:<15} {each.seconds:5.2f} s  choice {each.choice}")
        return 0
    home = os.environ.get("KAFKA_HOME")
    if not home or shutil.which("java") is None:
        print("error: KAFKA_HOME (an unpacked Apache Kafka) and java are needed", file=sys.stderr)
        return _WRONG_USAGE
    return _run(options, seed, chosen, planned, Path(home))


def _run(options: argparse.Namespace, seed: int, chosen: Sequence[str], planned: Sequence[Planned], home: Path) -> int:
    from tests.chaos.running import run

    folder = options.directory or ROOT / "build" / "chaos" / f"{seed}-{time.strftime('%Y%m%dT%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "driver.txt", level=logging.WARNING)
    # Of clients whose servers are killed all the time.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    report = asyncio.run(
        run(
            folder,
            home,
            planned,
            seed=seed,
            minutes=options.minutes,
            brokers=options.brokers or _brokers(),
            chosen=chosen,
            say=say,
        )
    )
    (folder / "report.json").write_text(report.as_json() + "\n", encoding="utf-8")
    if options.json:
        print(report.as_json())
    else:
        report.show()
        print(f"history, logs and report: {folder}")
    return 0 if report.holds else 1


def _brokers() -> int:
    """As many as the machine can bear."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 3 if memory >= 6 * _MEMORY_A_BROKER and (os.cpu_count() or 1) > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
