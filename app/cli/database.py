"""The database: its schema and its roles."""

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import printing, running
from app.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer()

_PAUSE = timedelta(seconds=0.3)

EngineOnly = Annotated[
    bool, typer.Option("--engine-only", help="Only the outbox itself, for a database of another service.")
]


@app.command(epilog="Example: DATABASE_URL=postgresql://me@db/shop outbox migrate --engine-only")
def migrate(
    engine_only: EngineOnly = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for PostgreSQL.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Bring the database to the newest schema. Safe to repeat, and at the same time twice.

    Sets MESSAGE_MAX_BYTES as the limit of a message, too.
    """
    from app.migrate import heads

    asyncio.run(_migrate(running.settings(), engine_only=engine_only, patience=timedelta(seconds=timeout)))
    revisions = sorted(heads(engine_only=engine_only))
    print(printing.as_json({"revisions": revisions}) if as_json else f"the database is at {', '.join(revisions)}")


async def _migrate(settings: "Settings", *, engine_only: bool, patience: timedelta) -> None:
    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from app import migrate
    from app.db import is_transient, tls, unavailable

    deadline = time.monotonic() + patience.total_seconds()
    told = False
    while True:
        try:
            await migrate.upgrade(
                settings.database,
                engine_only=engine_only,
                message_max_bytes=settings.message_max_bytes,
                connect_args={"ssl": tls(settings), "timeout": settings.connect_timeout.total_seconds()},
            )
        except (DBAPIError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not is_transient(error):
                raise running.refused(error) from error
            if time.monotonic() >= deadline:
                raise DatabaseUnavailable(f"{unavailable(error)} within {patience.total_seconds():g} s") from error
            if not told:
                printing.note(f"waiting for PostgreSQL: {unavailable(error)}")
            told = True
        else:
            return
        await asyncio.sleep(_PAUSE.total_seconds())


@app.command(epilog="Example: outbox roles --print | less; then: create role shop_api login in role outbox_app")
def roles(
    only_print: Annotated[bool, typer.Option("--print", help="Print the SQL and change nothing.")] = False,
    engine_only: EngineOnly = False,
) -> None:
    """Create or update group roles with least privileges; logins become members of them.

    outbox_app: the API. outbox_relay: the relay. outbox_ingest: consumers. outbox_ops: `outbox status` and the like.
    Run it again after each `outbox migrate`. Needs the tables' owner, who may create roles.
    """
    from app.outbox.roles import ROLES, statements

    domain: list[str] = []
    if not engine_only:
        import app.applications.models
        import app.users.models  # noqa: F401 - they register their tables
        from app.db import Base

        domain = sorted(Base.metadata.tables)
    script = statements(domain)
    if only_print:
        print("BEGIN;\n" + ";\n".join(script) + ";\nCOMMIT;")
        return
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession

    async def work(session: AsyncSession) -> None:
        for statement in script:
            await session.execute(text(statement))

    running.in_database(running.settings(), work)
    for role, purpose in ROLES.items():
        print(f"{role:14} {purpose}")
