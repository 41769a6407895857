"""`outbox up`: everything on this machine, with nothing else installed."""

import asyncio
import shlex
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from app.cli import printing, running

if TYPE_CHECKING:
    import socket

    from app.cli.http import Answer
    from app.kafka.reader import Record
    from app.settings import Settings

app = typer.Typer()

_PATIENCE = timedelta(seconds=20)
_CREATED = 201
_FIRST = {"user_name": "Анна Petrova", "description": "Please connect the flat to the internet."}


@app.command(epilog="Example: outbox up --fresh --port 8001")
def up(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the API, instead of API_PORT.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the data of earlier runs first.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where PostgreSQL keeps its data, instead of the usual place of this user.")
    ] = None,
    first_message: Annotated[bool, typer.Option(help="Send one application and show its event.")] = True,
) -> None:
    """Run PostgreSQL, Kafka, the API, the consumers and the relay in one process until Ctrl-C. Needs nothing else.

    What PostgreSQL stores is there again after a restart; what is in this Kafka is not, and messages that it had
    confirmed are not sent again.
    """
    from app.embedded import default_data_dir

    given: dict[str, Any] = {} if port is None else {"api_port": port}
    loaded = running.settings(**given)
    from app.cli import embedded
    from app.kafka.topics import ours

    listener = embedded.listen(loaded.api_host, loaded.api_port)
    folder = default_data_dir(data_dir)
    try:
        topics = dict.fromkeys(ours(loaded), loaded.topic_partitions)
        with embedded.services(folder, topics, fresh=fresh, **given) as settings:
            stopped_early = running.run(_up(settings, listener, folder, first_message=first_message))
    finally:
        listener.close()
    if stopped_early:
        raise typer.Exit(130)


async def _up(settings: "Settings", listener: "socket.socket", folder: Path, *, first_message: bool) -> bool:
    """Was it told to stop before it was ready?"""
    from app import lifecycle
    from app.api import server
    from app.cli import embedded

    url = server.url(listener)
    with lifecycle.stop_on_signals() as stop:
        async with embedded.api_and_relay(settings, listener):
            if stop.is_set():
                return True
            _say_where(settings, url, folder)
            if first_message:
                await _first_message(settings, url)
            print(f"\nTry: curl -i -H 'Content-Type: application/json' -d {_example()} {url}/applications")
            print("Ctrl-C stops it.", flush=True)
            await stop.wait()
    print("stopped", flush=True)
    return False


def _say_where(settings: "Settings", url: str, folder: Path) -> None:
    from app.tasks.part import in_use

    database = settings.database
    address = f"{database.host}:{database.port}/{database.database}"
    password = shlex.quote(str(folder.absolute() / "password"))
    print(f"API         {url}  (/docs, /readyz, /metrics)")
    print(f"Kafka       {settings.kafka_bootstrap_servers}  in this process: what it holds ends with it")
    fakes = [name for name, (_, is_fake) in in_use(settings).items() if is_fake]
    print(f"Providers   {', '.join(fakes)}: fakes in this process, for want of keys" if fakes else "Providers   real")
    print(f"PostgreSQL  {address}  data in {folder}, kept for the next run (--fresh: start empty)")
    print(f'            DATABASE_URL="postgresql://{database.username}:$(cat {password})@{address}" outbox status')


def _example() -> str:
    return shlex.quote('{"user_name": "Boris", "description": "Me too."}')


async def _first_message(settings: "Settings", url: str) -> None:
    """Send one application through HTTP and show its event as it arrived. Says so if that does not work."""
    from app.kafka.reader import read

    answer = await _insist(f"{url}/applications")
    print(f"\nPOST /applications {printing.as_json(_FIRST)}\n{answer.status} {printing.as_text(answer.body)}")
    if answer.status != _CREATED:
        printing.note("warning: the first application was not taken")
        return
    message_id = answer.headers["outbox-message-id"]
    arrived = [
        record
        for record in await read(
            settings,
            [settings.applications_topic],
            enough=lambda records: any(record.message_id == message_id for record in records),
            patience=_PATIENCE,
        )
        if record.message_id == message_id
    ]
    print(f"\nIn Kafka{' (nothing yet: see the logs)' if not arrived else ''}")
    for record in arrived:
        _show(record)


async def _insist(url: str) -> "Answer":
    """The answer to the first application. A busy machine may need a moment first, and says how long."""
    from app.cli.http import ask

    key, until = {"Idempotency-Key": f'"{uuid4()}"'}, time.monotonic() + _PATIENCE.total_seconds()
    while True:
        answer = await asyncio.to_thread(ask, url, post=_FIRST, headers=key, timeout=_PATIENCE)
        pause = answer.headers.get("retry-after")
        if pause is None or time.monotonic() > until:
            return answer
        await asyncio.sleep(float(pause))


def _show(record: "Record") -> None:
    print(f"topic      {record.topic}, partition {record.partition}, offset {record.offset}")
    print(f"key        {printing.as_text(record.key, 'none')}")
    for name, value in record.headers:
        print(f"header     {name}: {printing.as_text(value)}")
    print(f"value      {printing.as_text(record.value, 'none (a tombstone)')}")
