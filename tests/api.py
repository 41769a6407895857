"""The HTTP API in the test's own process, and what it left in the database."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app import settings as app_settings
from app.api.health import Readiness
from app.db import create_engine
from app.main import create_app
from app.settings import Settings

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
"""A database whose port nothing listens at."""

_DEADLINES = ("api_database_deadline", "connect_timeout", "rate_limit_store_timeout")
PROMPT: dict[str, Any] = {name: Settings.model_fields[name].default for name in _DEADLINES}
"""Deadlines as they are shipped, for tests in which the database fails and that is to be told soon."""
_PATIENT: dict[str, Any] = dict.fromkeys(_DEADLINES, 30)

logging.getLogger("httpx2").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Api:
    app: FastAPI
    client: httpx2.AsyncClient
    engine: AsyncEngine
    settings: Settings
    commits: list[None]
    """Grows by one with each commit that the API told of."""

    async def apply(self, user_name: str = "Анна", description: str = "Please.") -> httpx2.Response:
        return await self.client.post("/applications", json={"user_name": user_name, "description": description})

    async def send(self, body: bytes, **headers: str) -> httpx2.Response:
        """Post these very bytes."""
        return await self.client.post(
            "/applications", content=body, headers={"content-type": "application/json"} | headers
        )

    async def query(self, statement: str) -> Sequence[Any]:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(statement))).all()

    async def stored(self) -> tuple[int, int]:
        """How many applications and how many messages there are."""
        (counts,) = await self.query(
            "SELECT (SELECT count(*) FROM applications), (SELECT count(*) FROM outbox_messages)"
        )
        return int(counts[0]), int(counts[1])


@asynccontextmanager
async def api_on(database_url: str, *, readiness: Sequence[Readiness] = (), **overrides: object) -> AsyncIterator[Api]:
    """The API on this database, with these settings; unless they are given, without rate limits, and patient: a busy
    machine may make PostgreSQL and Redis slow.
    """
    given = {"rate_limit_writes": 0, "rate_limit_reads": 0} | _PATIENT | overrides
    settings = app_settings.load(_env_file=None, database_url=database_url, **given)
    engine = create_engine(
        settings, role="api", pool_size=settings.api_pool_size, deadline=settings.api_database_deadline
    )
    commits: list[None] = []
    app = create_app(settings, engine=engine, on_commit=lambda: commits.append(None), readiness=readiness)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.test") as client:
        yield Api(app, client, engine, settings, commits)
    await engine.dispose()
