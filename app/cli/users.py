"""`outbox users …`: trying out the requests of users."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from app.cli import printing, running
from app.errors import OutboxError

if TYPE_CHECKING:
    from app.kafka.reader import Record
    from app.settings import Settings

app = typer.Typer(name="users", help="Send requests of users.", no_args_is_help=True)


@app.command(epilog="Example: outbox users send request.xml --key ivan")
def send(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.xml", help="The request; - is standard input.", allow_dash=True)
    ],
    key: Annotated[str | None, typer.Option(help="Key of the message; the reply has the same.")] = None,
    message_id: Annotated[
        str | None, typer.Option("--id", help="Id of the request; sent again with the same id, it is a repeat.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the reply.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reply as JSON.")] = False,
) -> None:
    """Send a request to USERS_REQUESTS_TOPIC and show the reply: exit code 0 if it came and nothing in it FAILED."""
    try:
        document = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise OutboxError(f"{file} cannot be read ({error.strerror})") from error
    settings = running.settings()
    from app.users.xml import is_valid

    if not is_valid(document, "request"):
        printing.note("warning: not valid against request.xsd; it is sent as it is")
    patience = timedelta(seconds=timeout)
    reply = asyncio.run(_ask(settings, document, key, message_id or str(uuid4()), patience))
    if reply is None:
        raise OutboxError(f"no reply within {timeout:g} s: do worker and relay run? A repeat has none")
    if as_json:
        print(printing.as_json(reply))
    else:
        print(printing.as_text(reply.value))
        for name, value in reply.headers:
            if name.startswith("error-"):
                printing.note(f"{name}: {printing.as_text(value)}")
    raise typer.Exit(1 if any(name == "error-code" for name, _ in reply.headers) else 0)


async def _ask(
    settings: "Settings", document: bytes, key: str | None, message_id: str, patience: timedelta
) -> "Record | None":
    from app.kafka.requester import ask

    return await ask(
        settings,
        settings.users_requests_topic,
        document,
        key=None if key is None else key.encode(),
        headers=[("content-type", b"application/xml"), ("ce_id", message_id.encode()), ("ce_source", b"/outbox-cli")],
        correlation_id=uuid4().hex.encode(),
        reply_topic=settings.users_responses_topic,
        patience=patience,
    )
