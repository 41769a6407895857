"""The command `outbox`, in the test's own process or as one of its own."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from typer.testing import CliRunner, Result

from app import cli
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
"""Services whose ports nothing listens at."""


def outbox(*arguments: object, **environment: str) -> Result:
    """Run a command here. Only the settings given are set."""
    names = {name.upper(): None for name in Settings.model_fields}
    with _logging_as_it_was():
        return CliRunner().invoke(cli.app, [str(each) for each in arguments], env={**names, **NOWHERE, **environment})


async def outbox_aside(*arguments: object, **environment: str) -> Result:
    """The same beside a running event loop: commands bring their own."""
    return await asyncio.to_thread(outbox, *arguments, **environment)


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """A command sets up logging for a process of its own, with streams that end with it."""
    root, config = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    levels = {
        name: logging.getLogger(name).level for name in ("aiokafka", "asyncpg", "sqlalchemy", "alembic", "asyncio")
    }
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        structlog.configure(**config)


def process_environment(**settings: str) -> dict[str, str]:
    """For a process of its own: nothing of ours but these settings."""
    inherited = {
        name: value for name, value in os.environ.items() if name.startswith(("PATH", "HOME", "COVERAGE", "TMP"))
    }
    return {**inherited, "LOG_FORMAT": "json", **settings}


def command(*arguments: object) -> list[str]:
    """What to start."""
    return [sys.executable, "-c", "from app.cli import main; main()", *(str(each) for each in arguments)]
