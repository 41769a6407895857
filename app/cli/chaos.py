"""`outbox chaos`: break everything on purpose, under load, and judge what is left. It belongs to the sources."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.errors import OutboxError

app = typer.Typer()

_SOURCES = Path(__file__).resolve().parents[2]


@app.command(epilog="Example: outbox chaos --seed 20 --minutes 2 --faults kill-relay,crash-postgres")
def chaos(
    *,
    seed: Annotated[int | None, typer.Option(help="Of the schedule of faults; random if not given.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long; each fault comes at least once.")] = 2.0,
    faults: Annotated[str | None, typer.Option(help="Only these, separated by commas; all if not given.")] = None,
    brokers: Annotated[int | None, typer.Option(help="1 or 3; by the size of the machine if not given.")] = None,
    directory: Annotated[Path | None, typer.Option(help="For history and logs; build/chaos/… if not given.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="One fault at a time, to measure each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the schedule of the seed, and do nothing.")] = False,
) -> None:
    """Put load on a throw-away service, break all its parts on purpose, and let a machine judge what is left.

    Needs a source checkout with its development dependencies, an Apache Kafka at KAFKA_HOME, and Java. Exit code 0 if
    every promise was kept, every process healed by itself, and every chosen fault really happened.
    """
    given = {"seed": seed, "minutes": minutes, "faults": faults, "brokers": brokers, "directory": directory}
    arguments = [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
    arguments += ["--alone"] * alone + ["--json"] * as_json + ["--plan"] * plan
    if not (_SOURCES / "tests" / "chaos").is_dir():
        raise OutboxError("chaos is part of the sources: run it in a checkout, with `make chaos`")
    # Installed in place, the sources are found by their own names only, and the tests are none of them.
    sys.path.insert(0, str(_SOURCES))
    try:
        # By name, because nothing in app may depend on the tests.
        runner = importlib.import_module("tests.chaos.__main__")
    except ImportError as error:
        raise OutboxError(f"chaos needs the development dependencies ({error.name}): run `make chaos`") from error
    raise typer.Exit(runner.main(arguments))
