"""Writes dump/integration_service.sql: what the service stored in a run against the fakes, all three types of tasks.

    python scripts/dump.py [FILE]

Starts an embedded PostgreSQL, the API's use case, the runner and the fakes; nothing leaves this machine. The dump has
no owners and no roles, and restores into an empty database with psql.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from app import migrate
from app.db import create_engine, in_transaction
from app.embedded import EmbeddedPostgres
from app.embedded.binaries import bundled
from app.fakes import Fakes, serve
from app.settings import Settings, load
from app.tasks import service
from app.tasks.providers import connect_all
from app.tasks.runner import Runner
from app.tasks.schemas import NewTask

TARGET = Path(__file__).resolve().parent.parent / "dump" / "integration_service.sql"
TASKS = (
    ("phone", "раб 846)231.60.14 *139"),
    ("email", "serega@yandex/ru"),
    ("gpt", "Why is the sky blue? Answer in one sentence."),
    ("phone", "8 (916) 123-45-67"),
    ("phone", "not a phone"),
    ("email", "Info@Example.com"),
    ("email", "somebody@mailinator.com"),
    ("gpt", "Переведи на английский: доброе утро."),
)
# Whatever the environment holds, nobody is paid for a dump.
NO_KEYS = dict.fromkeys(
    ("dadata_api_key", "dadata_secret_key", "dadata_url", "yandex_api_key", "yandex_iam_token", "yandexgpt_url")
)
DEADLINE = timedelta(seconds=60)
LEFT_OUT = ("\\restrict", "\\unrestrict", "SET transaction_timeout")
OPTIONS = ("--no-owner", "--no-privileges", "--inserts", "--table=integration_service", "--restrict-key=dump")


async def fill(settings: Settings, engine: AsyncEngine) -> None:
    """Take the tasks, one after the other so that the dump is the same each time, and run them."""
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    stop = asyncio.Event()
    async with connect_all(settings) as providers, asyncio.TaskGroup() as group:
        group.create_task(Runner(settings, engine, providers).run(stop))
        async with asyncio.timeout(DEADLINE.total_seconds()):
            for number, (task_type, data) in enumerate(TASKS, start=1):
                new = NewTask.model_validate({"task_id": number, "task_type": task_type, "data": data})
                await in_transaction(sessions, partial(service.send, new=new, settings=settings), deadline=DEADLINE)
                ended = partial(in_transaction, sessions, partial(service.ended, task_ids=[number]), deadline=DEADLINE)
                while not await ended():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
        stop.set()


async def run(url: str) -> None:
    """Migrate, fill."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve(Fakes(), listener):
            fakes_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            settings = load(_env_file=None, database_url=url, fakes_url=fakes_url, **NO_KEYS)
            await migrate.upgrade(settings.database)
            engine = create_engine(settings, role="dump", pool_size=4, deadline=DEADLINE)
            try:
                await fill(settings, engine)
                async with engine.connect() as connection:
                    types = await connection.scalar(text("SELECT count(DISTINCT task_type) FROM integration_service"))
                if types != len({task_type for task_type, _ in TASKS}):
                    raise SystemExit("not all types of tasks were answered")
            finally:
                await engine.dispose()


def dump(url: str, target: Path) -> None:
    """Write the table with pg_dump, without what differs from one machine to the next."""
    parts = make_url(url)
    environment = {"PATH": os.defpath, "PGPASSWORD": parts.password or ""}
    asked = [f"--host={parts.host}", f"--port={parts.port}", f"--username={parts.username}", str(parts.database)]
    dumped = subprocess.run(
        [str(bundled().program("pg_dump")), *OPTIONS, *asked], check=True, capture_output=True, env=environment
    ).stdout.decode()
    target.parent.mkdir(exist_ok=True)
    # Commands of psql and a setting of PostgreSQL 17: without them, every client and server can restore it.
    lines = (line for line in dumped.splitlines(keepends=True) if not line.startswith(LEFT_OUT))
    target.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Make the dump."""
    target = Path(sys.argv[1]) if sys.argv[1:] else TARGET
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # as root, the server runs as somebody else
        postgres = EmbeddedPostgres(Path(folder) / "data", durable=False)
        postgres.start()
        try:
            url = postgres.url()
            asyncio.run(run(url))
            dump(url, target)
        finally:
            postgres.stop()
    print(f"{target} written")


if __name__ == "__main__":
    main()
