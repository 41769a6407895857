"""`outbox demo`: one round of everything on throw-away services, with a verdict."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import printing, running
from app.errors import OutboxError

if TYPE_CHECKING:
    import socket

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.kafka.reader import Record
    from app.settings import Settings

app = typer.Typer()

_PATIENCE = timedelta(seconds=20)
_ORDERS = "demo.orders"
_KEY = b"order-7"
_ADD = "SELECT outbox_add(:topic, CAST(:key AS bytea), CAST(:payload AS bytea))"


@dataclass(frozen=True, slots=True)
class Sent:
    """Something that went in. `message_id` is that of the message it caused; `promised`: is it to arrive?"""

    what: str
    message_id: str | None
    promised: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What went in, and what came of it."""

    sent: Sent
    arrived: "tuple[Record, ...]"

    @property
    def ok(self) -> bool:
        """Exactly once if it was promised, else not at all."""
        return len(self.arrived) == (1 if self.sent.promised else 0)


@app.command(epilog="Example: outbox demo --json")
def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send one of each through a throw-away PostgreSQL and Kafka, and compare what went in with what came out.

    Exit code 0 if each message that was committed arrived exactly once, in order, and nothing else did.
    """
    chosen = running.settings(log_level="warning")
    from app.cli import embedded
    from app.kafka.topics import ours

    with tempfile.TemporaryDirectory(prefix="outbox-demo-") as folder:
        listener = embedded.listen("127.0.0.1", 0)
        try:
            topics = dict.fromkeys(ours(chosen), chosen.topic_partitions) | {_ORDERS: 3}
            with embedded.services(Path(folder), topics, durable=False, log_level="warning") as settings:
                results, strangers = running.run(_demo(settings, listener))
        finally:
            listener.close()
    in_order = _in_order(results)
    ok = in_order and not strangers and all(result.ok for result in results)
    if as_json:
        rounds = [
            {"in": result.sent.what, "promised": result.sent.promised, "ok": result.ok, "out": result.arrived}
            for result in results
        ]
        print(printing.as_json({"ok": ok, "in_order": in_order, "strangers": strangers, "messages": rounds}))
    else:
        printing.console().print(printing.table(("in", "out", "key", "value", ""), map(_row, results)))
        print("each message arrived exactly once, in order" if ok else "NOT as promised")
    raise typer.Exit(0 if ok else 1)


async def _demo(settings: "Settings", listener: "socket.socket") -> "tuple[list[Result], list[Record]]":
    """What went in with what came out, and messages that nobody sent."""
    from app import lifecycle
    from app.api import server
    from app.cli import embedded
    from app.kafka.reader import read

    with lifecycle.stop_on_signals() as stop:
        async with embedded.api_and_relay(settings, listener):
            sent = [*await _through_http(server.url(listener)), *await _through_sql(settings)]
            await _drained(settings, stop)
            records = await read(
                settings, [settings.applications_topic, _ORDERS], enough=lambda _records: True, patience=_PATIENCE
            )
    results = [
        Result(each, tuple(record for record in records if record.message_id == each.message_id)) for each in sent
    ]
    known = {each.message_id for each in sent}
    return results, [record for record in records if record.message_id not in known]


async def _through_http(url: str) -> list[Sent]:
    from app.cli.http import ask

    posts: list[tuple[str, object]] = [
        ("an application over HTTP", {"user_name": "Анна Petrova", "description": "Please connect the flat."}),
        ("another of the same user", {"user_name": "Анна Petrova", "description": "And the office."}),
        ("one without a user's name", {"description": "Who am I?"}),
    ]
    sent = []
    for what, body in posts:
        answer = await asyncio.to_thread(ask, f"{url}/applications", post=body, timeout=_PATIENCE)
        message_id = answer.headers.get("outbox-message-id")
        sent.append(Sent(f"{what}: {answer.status}", message_id, promised=message_id is not None))
    if [each.promised for each in sent] != [True, True, False]:
        raise OutboxError("the API did not answer as it should: " + ", ".join(each.what for each in sent))
    return sent


async def _through_sql(settings: "Settings") -> list[Sent]:
    """Three messages of one key, and between them one of a transaction that is rolled back."""
    from sqlalchemy import text

    statements: list[tuple[str, bytes | None, bool]] = [
        ("outbox_add in SQL", b'{"state":"placed"}', True),
        ("outbox_add, rolled back", b'{"state":"lost"}', False),
        ("outbox_add, the same key", b'{"state":"paid"}', True),
        ("outbox_add, a tombstone", None, True),
    ]
    sent = []
    async with running.database(settings) as transaction:
        for what, payload, committed in statements:

            async def work(session: "AsyncSession", payload: bytes | None = payload, commit: bool = committed) -> str:
                values = {"topic": _ORDERS, "key": _KEY, "payload": payload}
                message_id = str((await session.execute(text(_ADD), values)).scalar_one())
                if not commit:
                    await session.rollback()
                return message_id

            sent.append(Sent(what, await transaction(work), promised=committed))
    return sent


async def _drained(settings: "Settings", stop: asyncio.Event) -> None:
    """Wait until nothing is owed: then no repeat can follow."""
    from app import lifecycle
    from app.outbox.status import read_topics

    deadline = asyncio.get_running_loop().time() + _PATIENCE.total_seconds()
    async with running.database(settings) as transaction:
        while any(topic.owed + topic.parked for topic in await transaction(read_topics)):
            if asyncio.get_running_loop().time() > deadline:
                return  # what is missing will be said
            if await lifecycle.wait(stop, timedelta(seconds=0.02)):
                raise KeyboardInterrupt


def _in_order(results: Sequence[Result]) -> bool:
    places = [
        (record.partition, record.offset) for result in results for record in result.arrived if record.topic == _ORDERS
    ]
    return places == sorted(places) and len({partition for partition, _ in places}) <= 1


def _row(result: Result) -> tuple[object, ...]:
    out = ", ".join(f"{record.topic} {record.partition}:{record.offset}" for record in result.arrived) or "nothing"
    first = result.arrived[0] if result.arrived else None
    key = "" if first is None else printing.as_text(first.key, "none")
    value = "" if first is None else printing.as_text(first.value, "none (a tombstone)")
    return result.sent.what, out, key, value, "ok" if result.ok else "WRONG"
