"""`outbox verify`: does what stands in the topics agree with what PostgreSQL holds?"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import printing, running
from app.errors import NotFound

if TYPE_CHECKING:
    from app.audit import Intake, Progress, Report, Scope
    from app.settings import Settings

app = typer.Typer()

_FORMATS = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"]


@app.command(epilog="Example: outbox verify --topic applications.events --since 2026-01-31T08:00:00 --strict")
def verify(
    *,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Only this topic; may be given again. Else all that are known.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="Only records from this moment on (UTC).")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="Only records before this moment (UTC).")
    ] = None,
    first: Annotated[
        int | None, typer.Option("--from-offset", min=0, help="Only from this offset on, in each partition.")
    ] = None,
    end: Annotated[
        int | None, typer.Option("--to-offset", min=0, help="Only below this offset, in each partition.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="How many of each kind to show.")] = 10,
    max_repeats: Annotated[
        int | None, typer.Option(min=0, help="More repeats than this are a violation; else any number is allowed.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="The same as --max-repeats 0.")] = False,
    inbox: Annotated[bool, typer.Option(help="Check the consumers' inputs against the inbox.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare receipts, owed messages and dead letters with what really stands in Kafka. Changes nothing.

    Exit code 0 when nothing breaks the promise, 1 when something does. Shows ids and places, never what messages carry.
    """
    if strict and max_repeats is not None:
        raise typer.BadParameter("--strict says the same as --max-repeats 0: give one of them")
    since, until = _in_utc(since), _in_utc(until)
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("is not before --until", param_hint="--since")
    if first is not None and end is not None and first >= end:
        raise typer.BadParameter("is not below --to-offset", param_hint="--from-offset")
    settings = running.settings()
    from app.audit import Scope

    scope = Scope(topics=tuple(topics or ()), since=since, until=until, first=first, end=end)
    try:
        report = _audit(settings, scope, inbox=inbox, examples=examples, max_repeats=0 if strict else max_repeats)
    except NotFound as error:
        raise typer.BadParameter(str(error), param_hint="--topic") from error
    if as_json:
        print(printing.as_json({"ok": report.ok} | _plain(report)))
    else:
        _show(report)
    raise typer.Exit(0 if report.ok else 1)


def intakes_of(settings: "Settings") -> "tuple[Intake, ...]":
    """The consumers of this service, as the auditor wants to know them. Raises ConfigurationError."""
    from app.audit import Intake
    from app.kafka.batch import Undecodable
    from app.tasks.consumer import TasksHandler
    from app.users.consumer import UsersHandler

    users, tasks = UsersHandler(settings), TasksHandler(settings)
    # Neither looks at what the input says.
    return (
        Intake(
            consumer=settings.users_group,
            topic=settings.users_requests_topic,
            identify=lambda record: users.identify(record, Undecodable("")),
            dead_letters=settings.users_dead_letters_topic,
        ),
        Intake(
            consumer=settings.tasks_group,
            topic=settings.kafka_import_topic,
            identify=lambda record: tasks.identify(record, Undecodable("")),
            dead_letters=settings.kafka_import_dead_letters_topic,
        ),
    )


def _audit(settings: "Settings", scope: "Scope", *, inbox: bool, examples: int, max_repeats: int | None) -> "Report":
    import asyncpg

    from app.audit import audit

    with _progress() as progress:
        try:
            return running.run(
                audit(
                    settings,
                    scope,
                    intakes=intakes_of(settings) if inbox else (),
                    examples=examples,
                    max_repeats=max_repeats,
                    progress=progress,
                )
            )
        except asyncpg.PostgresError as error:
            raise running.refused(error) from error


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


@contextmanager
def _progress() -> "Iterator[Callable[[Progress], None]]":
    """A bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)

        def show(now: "Progress") -> None:
            bar.update(task, description=now.what, completed=now.done, total=now.total)

        yield show


def _plain(report: "Report") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(report)


def _show(report: "Report") -> None:
    console, standing = printing.console(), report.standing
    topics = (
        (t.topic, t.records, t.receipts, t.no_longer_there, t.foreign, t.beyond_receipts, t.order_unknown)
        for t in report.topics
    )
    columns = ("topic", "records", "receipts", "no longer there", "foreign", "too old", "order unknown")
    console.print(printing.table(columns, topics))
    if report.intakes:
        inputs = ((each.consumer, each.topic, each.checked, each.too_old) for each in report.intakes)
        console.print(printing.table(("consumer", "input", "checked", "too old"), inputs))
    console.print(
        f"owed {standing.owed}, parked {standing.parked}, undecided dead letters {standing.dead_letters}; "
        f"{report.records} records in {report.seconds:.1f} s"
    )
    if report.findings:
        found = ((f.kind, f.count, "violation" if f.violation else "allowed") for f in report.findings)
        console.print(printing.table(("finding", "count", ""), found))
        rows = (
            (finding.kind, each.message_id, each.topic, each.partition, each.offset, each.detail)
            for finding in report.findings
            for each in finding.examples
        )
        console.print(printing.table(("finding", "message id", "topic", "partition", "offset", "detail"), rows))
    print("as promised" if report.ok else "NOT as promised")
