"""Housekeeping deletes kept answers whose time is over, and no others."""

from relay import housekeeping
from tests.api import api_on
from tests.services.postgres_server import PostgresServer


async def test_only_what_has_expired_is_deleted(database_url: str, postgres: PostgresServer) -> None:
    async with api_on(database_url) as api:
        for key in ("old-1", "old-2", "new"):
            await api.send(b'{"user_name": "Anna", "description": "d"}', **{"idempotency-key": key})
        async with postgres.connection(database_url) as connection:
            await connection.execute("UPDATE idempotency_keys SET expires_at = clock_timestamp() WHERE key LIKE 'old%'")
            (task,) = (each for each in housekeeping._tasks(api.settings) if each.name == "purge_idempotency_keys")
            await housekeeping._do(connection, task, api.settings)
            assert [row["key"] for row in await connection.fetch("SELECT key FROM idempotency_keys")] == ["new"]
