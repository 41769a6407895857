"""`outbox …`: the processes, the database, the topics and what operators do, as one command.

Exit codes: 0 done, 1 failed or not healthy, 2 wrong usage or a wrong setting, 130 interrupted. What went wrong is one
line on standard error.
"""

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from app.cli import (
    api_docs,
    api_key,
    chaos,
    database,
    dead_letters,
    demo,
    printing,
    search,
    services,
    settings,
    status,
    tasks,
    topics,
    up,
    users,
    verify,
)
from app.errors import ConfigurationError, OutboxError


class _Commands(TyperGroup):
    """Turns our errors into one line and an exit code that says whose matter it is."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            printing.note(f"error: {error}")
            raise typer.Exit(2) from error
        except OutboxError as error:
            printing.note(f"error: {error}")
            raise typer.Exit(1) from error


app = typer.Typer(
    name="outbox",
    cls=_Commands,
    help=(
        "A change and the message about it are committed together, and the message then reaches Kafka.\n\n"
        "Settings come from the environment or a file .env: `outbox settings markdown` lists them."
    ),
    no_args_is_help=True,
    add_completion=False,
    # Local variables in a traceback may hold passwords and rows.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (
    up,
    demo,
    services,
    database,
    search,
    api_key,
    api_docs,
    topics,
    users,
    tasks,
    status,
    dead_letters,
    verify,
    settings,
    chaos,
):
    app.add_typer(part.app)
app.add_typer(tasks.fakes_app)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `outbox` and `python -m relay`."""
    app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="outbox")
