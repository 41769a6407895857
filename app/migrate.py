"""The schema: bring a database to the migration this code was written for, and ask whether it is there.

There are two branches of migrations: `engine` (the outbox itself, of use to any service) and `app` (our domains),
which builds on it. Their versions are kept in `outbox_alembic_version`, so that a host database's own alembic is left
alone.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from alembic import command, util
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

import migrations
from app.errors import SchemaError

VERSION_TABLE = "outbox_alembic_version"
DEFAULT_MESSAGE_MAX_BYTES = 900_000

# Two migrators at once would both create the same tables; the second waits for the first.
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(1869968498, 1)")
# A migration waits for no lock for long: a queue behind it would stop the service.
_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '5s'")
_SIZE_LIMIT = text("SELECT outbox_limit_messages(:message_max_bytes)")


def config(connection: Connection | None = None) -> Config:
    """Configuration of alembic for the scripts that are shipped with the package."""
    result = Config()
    result.set_main_option("script_location", str(Path(migrations.__file__).parent))
    result.set_main_option("path_separator", "os")
    result.attributes["connection"] = connection
    return result


def heads(*, engine_only: bool = False) -> frozenset[str]:
    """The revisions that a database at the newest schema stands at."""
    scripts = _scripts()
    if engine_only:
        return frozenset(head.revision for head in scripts.get_revisions("engine@head"))
    return frozenset(scripts.get_heads())


@functools.cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(config())


def _with_what_they_need(revisions: Iterable[str]) -> frozenset[str]:
    """These revisions and all before them: a database names only those that no other of its revisions needs."""
    done: set[str] = set()
    pending = list(revisions)
    while pending:
        name = pending.pop()
        done.add(name)
        try:
            revision = _scripts().get_revision(name)
        except CommandError:
            raise SchemaError(f"the database is at {name}, which this code does not know: it is older") from None
        pending += util.to_tuple(revision.down_revision, ()) + util.to_tuple(revision.dependencies, ())
    return frozenset(done)


async def upgrade(
    url: str | URL,
    *,
    engine_only: bool = False,
    message_max_bytes: int = DEFAULT_MESSAGE_MAX_BYTES,
    connect_args: dict[str, object] | None = None,
) -> None:
    """Bring the database to the newest schema, in one transaction; safe to repeat, and at the same time twice.

    `engine_only` installs the outbox's tables and functions without our domains. `message_max_bytes` becomes the
    limit that the database puts on key + headers + payload of a message.
    """

    def run(connection: Connection) -> None:
        command.upgrade(config(connection), "engine@head" if engine_only else "heads")

    engine = create_async_engine(url, poolclass=NullPool, connect_args=connect_args or {})
    async with engine.begin() as connection:
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute(_ONE_AT_A_TIME)
        await connection.run_sync(run)
        await connection.execute(_SIZE_LIMIT, {"message_max_bytes": message_max_bytes})
    await engine.dispose()


async def downgrade(url: str | URL, revision: str = "base") -> None:
    """Take the schema back, by default to nothing. All rows of the dropped tables are lost."""

    def run(connection: Connection) -> None:
        for branch in ("app@", "engine@") if revision == "base" else ("",):
            command.downgrade(config(connection), branch + revision)

    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute(_ONE_AT_A_TIME)
        await connection.run_sync(run)
    await engine.dispose()


async def check(connection: AsyncConnection, *, engine_only: bool = False) -> None:
    """Raise SchemaError unless the database stands at the newest schema (a newer one is refused too)."""

    def current(sync: Connection) -> frozenset[str]:
        context = MigrationContext.configure(sync, opts={"version_table": VERSION_TABLE})
        return frozenset(context.get_current_heads())

    here, wanted = await connection.run_sync(current), heads(engine_only=engine_only)
    if not wanted <= _with_what_they_need(here):
        raise SchemaError(
            f"the database is at {', '.join(sorted(here)) or 'no schema'}, this code needs "
            f"{', '.join(sorted(wanted))}: run `outbox migrate`"
        )
