"""`outbox tasks …`: look at integration tasks and decide on those that are held; `outbox fakes`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import printing, running
from app.cli.topics import AsJson
from app.cli.who import By, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.settings import Settings
    from app.tasks.operators import TaskState

app = typer.Typer(
    name="tasks", help="Look at integration tasks, and decide on those that are held.", no_args_is_help=True
)
fakes_app = typer.Typer()

TaskNumber = Annotated[int, typer.Argument(metavar="TASK_ID", help="The task's number.")]


class States(StrEnum):
    """What a task can be."""

    PENDING = "pending"
    RUNNING = "running"
    HELD = "held"
    DONE = "done"
    FAILED = "failed"


class Providers(StrEnum):
    """Who is asked."""

    DADATA = "dadata"
    YANDEXGPT = "yandexgpt"


@app.command("list", epilog="Example: outbox tasks list --state held")
def list_tasks(
    state: Annotated[States | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most to show, the last accepted first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show tasks, without what was asked. Held: nobody knows whether the provider was paid."""
    from app.tasks import operators

    found = running.in_database(
        running.settings(),
        lambda session: operators.list_tasks(session, state=None if state is None else state.value, limit=limit),
    )
    _print(found, as_json=as_json)
    if len(found) == limit:
        printing.note(f"the last {limit}; --limit shows more")


@app.command(epilog="Example: outbox tasks show 17")
def show(task_id: TaskNumber, as_json: AsJson = False) -> None:
    """Show one task."""
    from app.tasks import operators

    found = running.in_database(running.settings(), lambda session: operators.show(session, task_id))
    _print([found], as_json=as_json)


def _print(found: "Sequence[TaskState]", *, as_json: bool) -> None:
    if as_json:
        print(printing.as_json(found))
        return
    columns = ("task", "type", "state", "from", "tries", "unknown", "operation", "result", "met last", "accepted at")
    rows = (
        (
            each.task_id,
            each.task_type,
            each.state,
            each.origin,
            each.tries,
            each.unknown,
            each.operation_id or "",
            each.result_id or "",
            each.error or "",
            printing.moment(each.accepted_at),
        )
        for each in found
    )
    printing.console().print(printing.table(columns, rows))


@app.command(epilog="Example: outbox tasks release 17")
def release(task_id: TaskNumber, by: By = None) -> None:
    """Ask the provider again for a held task. It may be paid a second time."""
    from app.tasks import operators

    running.in_database(running.settings(), lambda session: operators.release(session, task_id, by=name_of(by)))
    print(f"task {task_id} is due")


@app.command(epilog="Example: outbox tasks discard 17")
def discard(task_id: TaskNumber, by: By = None) -> None:
    """End a held or waiting task without a result; the error topic tells so."""
    from app.tasks import operators

    settings = running.settings()
    running.in_database(
        settings, lambda session: operators.discard(session, task_id, by=name_of(by), settings=settings)
    )
    print(f"task {task_id} has failed: DISCARDED")


@app.command(epilog="Example: outbox tasks resume dadata")
def resume(provider: Annotated[Providers, typer.Argument(help="The provider.")]) -> None:
    """Ask a provider again at once: the key was corrected, or it was paid."""
    from app.tasks import gates

    running.in_database(running.settings(), lambda session: gates.reopen(session, provider.value))
    print(f"{provider.value} is asked again")


@fakes_app.command(epilog="Example: outbox fakes --port 8090")
def fakes(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8090,
) -> None:
    """Answer as Dadata and YandexGPT would, until SIGTERM or Ctrl-C: for use without keys.

    GET /fakes tells what was asked and billed; POST /fakes/dadata or /fakes/yandexgpt takes faults and delays.
    """
    running.run(_fakes(running.settings(), host, port))


async def _fakes(_settings: "Settings", host: str, port: int) -> None:
    from app import lifecycle, log
    from app.api import server
    from app.fakes import Fakes, serve

    listener = server.listen(host, port, setting="FAKES")
    with lifecycle.stop_on_signals() as stop:
        async with serve(Fakes(), listener):
            log.get("app.fakes").info("fakes.ready", url=server.url(listener))
            await stop.wait()
