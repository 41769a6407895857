"""`outbox status`: how the outbox is doing, by the database alone."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import printing, running
from app.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.console import RenderableType
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.outbox.status import Status

app = typer.Typer()


@app.command(epilog="Example: outbox status --watch --interval 2")
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch one line a look.")] = False,
) -> None:
    """Show what is owed, parked and dead, how old the oldest is, and who delivers. Needs no running relay."""
    settings = running.settings()
    from app.kafka.topics import ours
    from app.outbox.status import read_status
    from relay.store import ROLE

    # `outbox-` is what app.db puts before the role of each session.
    read = partial(read_status, relay_application=f"outbox-{ROLE}", known=ours(settings))
    if watch:
        _watch(read, interval=interval, as_json=as_json)
        return
    now = running.in_database(settings, read)
    if as_json:
        print(_json(now))
    else:
        printing.console().print(_picture(now))


def _watch(read: "Callable[[AsyncSession], Awaitable[Status]]", *, interval: float, as_json: bool) -> None:
    """Until Ctrl-C. Once it worked, whatever goes wrong is shown, and another look is taken."""
    from rich.live import Live

    async def looks(show: "Callable[[Status | OutboxError], None]") -> None:
        async with running.database(running.settings()) as transaction:
            now: Status | OutboxError = await transaction(read)
            while True:
                show(now)
                await asyncio.sleep(interval)
                try:
                    now = await transaction(read)
                except OutboxError as error:
                    now = error

    def line(now: "Status | OutboxError") -> None:
        print(printing.as_json({"error": str(now)}) if isinstance(now, OutboxError) else _json(now), flush=True)

    try:
        if as_json:
            asyncio.run(looks(line))
            return
        with Live(console=printing.console(), auto_refresh=False, vertical_overflow="visible") as live:

            def draw(now: "Status | OutboxError") -> None:
                live.update(str(now) if isinstance(now, OutboxError) else _picture(now), refresh=True)

            asyncio.run(looks(draw))
    except KeyboardInterrupt:
        return


def _json(now: "Status") -> str:
    return printing.as_json(
        {
            "at": now.at,
            "owed": now.owed,
            "oldest_owed_seconds": now.oldest_owed,
            "parked": now.parked,
            "dead_letters": now.dead_letters,
            "slots_connected": now.slots_connected,
            "oldest_transaction_seconds": now.oldest_transaction,
            "delivered_last_minute": now.delivered_last_minute,
            "topics": now.topics,
        }
    )


def _picture(now: "Status") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    lines = [
        f"owed               {now.owed}" + (f", the oldest for {printing.duration(now.oldest_owed)}" * (now.owed > 0)),
        f"parked             {now.parked}",
        f"dead letters       {now.dead_letters}",
        f"delivered          {now.delivered_last_minute} in the last minute",
        f"slots connected    {now.slots_connected}" + " (no relay is running)" * (now.slots_connected == 0),
        f"oldest transaction {printing.duration(now.oldest_transaction)}",
    ]
    rows = (
        (topic.topic, topic.state, topic.owed, topic.parked, topic.dead_letters, topic.reason) for topic in now.topics
    )
    topics = printing.table(("topic", "state", "owed", "parked", "dead", "why"), rows)
    return Group(Text("\n".join(lines)), topics)
