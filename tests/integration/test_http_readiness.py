"""Readiness: what each part says, and how long it may take to say it."""

import asyncio

from app.api.health import Readiness
from app.errors import Unavailable
from tests.api import api_on


async def test_a_database_without_our_tables_is_not_ready(empty_database_url: str) -> None:
    async with api_on(empty_database_url) as api:
        response = await api.client.get("/readyz")
        assert response.status_code == 503
        checks = response.json()["checks"]
        assert checks["database"]["ready"]
        assert "outbox migrate" in checks["migrations"]["problem"]


async def test_a_schema_from_the_future_is_not_ready(database_url: str) -> None:
    async with api_on(database_url) as api:
        async with api.engine.begin() as connection:
            await connection.exec_driver_sql(
                "UPDATE outbox_alembic_version SET version_num = 'app_9999' WHERE version_num LIKE 'app_%'"
            )
        checks = (await api.client.get("/readyz")).json()["checks"]
        assert "app_9999" in checks["migrations"]["problem"]


async def test_what_the_process_adds_counts_too(database_url: str) -> None:
    hangs = asyncio.Event()

    async def late() -> None:
        await hangs.wait()

    async def stalled() -> None:
        raise Unavailable("no round for 60 s")

    async def broken() -> None:
        raise KeyError("a secret")

    async def fine() -> None:
        return

    parts = [Readiness(check.__name__, check) for check in (late, stalled, broken, fine)]
    async with api_on(database_url, readiness=parts) as api:
        response = await api.client.get("/readyz")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "secret" not in response.text
        checks = response.json()["checks"]
        assert checks["late"]["problem"] == "no answer within 1 s"
        assert checks["stalled"]["problem"] == "no round for 60 s"
        assert checks["broken"]["problem"] == "KeyError"
        assert checks["fine"]["ready"]
        assert checks["database"]["ready"]
