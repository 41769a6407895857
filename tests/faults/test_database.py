"""PostgreSQL fails under the whole service: nothing acknowledged is lost, nothing comes twice, and all of it heals."""

import asyncio
from collections import Counter

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.engine import connect
from tests.faults.service import HEALED, Service, service_on
from tests.services.fixtures import PrivatePostgres, Proxies
from tests.services.kafka import Kafka

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]

_ROLES = ("outbox-api", "outbox-worker", "outbox-relay")
_TERMINATE = """
    SELECT application_name, pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = ANY($1) AND random() < 0.3
"""
_EVERY = 0.05  # seconds


async def _storm(service: Service, connection: asyncpg.Connection, each: int) -> None:
    """Terminate 30 % of the service's sessions, again and again, until each role has lost so many."""
    lost: Counter[str] = Counter()
    while min(lost[role] for role in _ROLES) < each:
        service.clients_go_on()  # or the API has no sessions to lose, and nobody says why
        lost.update(row[0] for row in await connection.fetch(_TERMINATE, _ROLES))
        await asyncio.sleep(_EVERY)


async def test_sessions_terminated_in_a_storm(kafka: Kafka, database_url: str) -> None:
    async with service_on(kafka, database_url) as service, connect(database_url) as operator:
        async with asyncio.timeout(HEALED.total_seconds()):
            await _storm(service, operator, each=15)
        assert service.refused, "nobody noticed"
        await service.goes_on()
        service.refused_soon()


async def test_a_server_that_crashes_again_and_again(kafka: Kafka, private_postgres: PrivatePostgres) -> None:
    server = await private_postgres({"fsync": "on"})
    url = await server.create_database(migrated=True)
    async with service_on(kafka, url) as service:
        for _ in range(3):
            await server.kill()
            await service.refuses()
            await server.start()
            await service.reconnect()
            await service.goes_on()
        service.refused_soon()


async def test_a_network_that_drops_everything(kafka: Kafka, database_url: str, tcp_proxy: Proxies) -> None:
    address = make_url(database_url)
    proxy = await tcp_proxy(address.host or "localhost", address.port or 5432)
    async with service_on(kafka, database_url, through=proxy.through(database_url)) as service:
        for _ in range(2):
            proxy.pause()
            try:
                await service.refuses()
            finally:
                proxy.resume()
            await service.goes_on()
        service.refused_soon()
