"""`python -m bench [NAME…] [--json FILE]`: run these benches, or all of them."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from app.cli import running
from bench import (
    decisions,
    drain,
    http,
    idle,
    latency,
    memory,
    records,
    rounds,
    services,
    snapshot,
    tasks,
    users,
    verify,
)
from bench.options import Options
from bench.results import Table

Bench: TypeAlias = Callable[[services.Services, Options], Awaitable[list[Table]]]

BENCHES: dict[str, Bench] = {
    "drain": drain.run,
    "http": http.run,
    "latency": latency.run,
    "memory": memory.run,
    "idle": idle.run,
    "snapshot": snapshot.run,
    "decisions": decisions.run,
    "records": records.run,
    "rounds": rounds.run,
    "users": users.run,
    "tasks": tasks.run,
    "verify": verify.run,
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises SystemExit with status 2, and says why, when the arguments make no sense."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the service.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHES)}; all when none is given")
    parser.add_argument("--json", metavar="FILE", help="write the results there too; - prints them instead of tables")
    parser.add_argument("--messages", type=int, default=defaults.messages, help="how many a drain delivers")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="how often each contender of a drain runs")
    parser.add_argument("--seconds", type=int, default=defaults.seconds, help="how long traffic or rest lasts")
    parser.add_argument("--owed", type=int, default=defaults.owed, help="how many are owed when memory is measured")
    parsed = parser.parse_args(arguments)
    unknown = [name for name in parsed.names if name not in BENCHES]
    if unknown:
        parser.error(f"there is no bench {unknown[0]!r}: choose from {', '.join(BENCHES)}")
    return parsed


async def measure(names: Sequence[str], options: Options, show: Callable[[str], None]) -> dict[str, object]:
    """Run these benches, show each table as soon as it is there, and return everything as JSON."""
    tables: list[Table] = []
    async with services.started() as found:
        machine = await found.describe()
        show("\n".join(f"{name}: {value}" for name, value in machine.items()))
        for name in names or BENCHES:
            for table in await BENCHES[name](found, options):
                tables.append(table)
                show(f"\n{table}")
        machine_after = await found.describe()
    return {
        "machine": machine | {"load_average_after": machine_after["load_average"]},
        "tables": [table.to_json() for table in tables],
    }


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print."""
    parsed = parse(arguments)
    options = Options(parsed.messages, parsed.rounds, parsed.seconds, parsed.owed)
    to_stdout = parsed.json == "-"

    def show(text: str) -> None:
        if not to_stdout:
            print(text, flush=True)

    found = running.run(measure(parsed.names, options, show))
    if to_stdout:
        print(json.dumps(found, indent=2))
    elif parsed.json is not None:
        Path(parsed.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
