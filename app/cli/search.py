"""What makes searching fast, where the server can."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from app.cli import running

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer()

_DEADLINE = timedelta(hours=1)
"""Building it reads the whole table, beside the requests."""


@app.command(epilog="Example: outbox search-index")
def search_index() -> None:
    """Create the index for parts of names (`user_name__like`), with PostgreSQL's extension pg_trgm. Safe to repeat.

    Requests go on meanwhile. Needs the tables' owner, who may create the extension.
    """
    created = asyncio.run(_create(running.settings()))
    print("the index was created" if created else "the index is there already")


async def _create(settings: "Settings") -> bool:
    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from app.applications import search_index
    from app.db import create_engine

    engine = create_engine(settings, role="cli", pool_size=1, deadline=_DEADLINE)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await search_index.create(connection)
    except (DBAPIError, OSError, asyncpg.PostgresError) as error:
        raise running.refused(error) from error
    finally:
        await engine.dispose()
