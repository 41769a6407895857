"""One server of PostgreSQL, wherever it runs, and the databases that tests make on it."""

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import URL, make_url

from app import migrate
from app.embedded.binaries import bundled
from app.errors import EmbeddedServiceError

# Room for several relays with their slots, pools and writers at once, and for prepared transactions.
SETTINGS = {"max_connections": "200", "max_prepared_transactions": "20"}

_names = itertools.count(1)


def dsn(url: str) -> str:
    """The same address without SQLAlchemy's driver, for asyncpg and libpq."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class PostgresServer:
    """A running server, known by the address of its administrator."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url

    def url(self, database: str) -> str:
        return make_url(self.admin_url).set(database=database).render_as_string(hide_password=False)

    async def create_database(self, template: str | None = None, *, migrated: bool = False) -> str:
        """A new database, a copy of `template` if given; its address."""
        name = f"test_{os.getpid()}_{next(_names)}"
        # Files are copied for a third of the work of the default strategy, which logs each page of the template.
        copy = f'TEMPLATE "{template}"' if template else ""
        await self.execute(f'CREATE DATABASE "{name}" {copy} STRATEGY file_copy')
        url = self.url(name)
        if migrated:
            await migrate.upgrade(url)
        return url

    async def drop_database(self, url: str) -> None:
        """Drop it, whoever is still connected."""
        await self.execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    async def execute(self, sql: str) -> None:
        """Run statements as the administrator."""
        async with self.connection() as connection:
            await connection.execute(sql)

    @asynccontextmanager
    async def connection(self, url: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """A plain connection, by default the administrator's."""
        connection = await asyncpg.connect(dsn(url or self.admin_url), timeout=30)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def psql(self, sql: str, url: str, *arguments: str) -> str:
        """What psql prints for `sql`: unaligned, without headers. Fails the test when psql does."""
        program = _psql()
        if program is None:
            pytest.skip("no psql on this machine")
        process = await asyncio.create_subprocess_exec(
            program,
            *("-XqAt", "-v", "ON_ERROR_STOP=1", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=libpq_environment(url),
        )
        out, err = await process.communicate(sql.encode())
        assert process.returncode == 0, err.decode()
        return out.decode().strip()


def libpq_environment(url: str | URL) -> dict[str, str]:
    """The environment in which psql and pg_dump find the database `url`."""
    address = make_url(url)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PGHOST": address.host or "localhost",
        "PGPORT": str(address.port or 5432),
        "PGUSER": address.username or "postgres",
        "PGPASSWORD": str(address.password or ""),
        "PGDATABASE": address.database or "postgres",
    }


def _psql() -> str | None:
    try:
        return str(bundled().program("psql"))
    except EmbeddedServiceError:
        return shutil.which("psql")
