"""The fixtures; `tests/conftest.py` hands them to pytest."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Protocol

import pytest

from tests.services.backend import Backend, Services
from tests.services.brokers import OwnKafka
from tests.services.clusters import new_kafka
from tests.services.kafka import Kafka, MockKafka, RealKafka
from tests.services.postgres import LocalPostgres, OwnPostgres
from tests.services.postgres_server import PostgresServer
from tests.services.proxy import TcpProxy

SERVICES = pytest.StashKey[Services]()


class PrivatePostgres(Protocol):
    async def __call__(self, settings: Mapping[str, str] | None = None) -> OwnPostgres: ...


class PrivateKafka(Protocol):
    async def __call__(self, brokers: int = 1, properties: Mapping[str, str] | None = None) -> OwnKafka: ...


Proxies = Callable[[str, int], Awaitable[TcpProxy]]


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    """The backend that this run uses."""
    return pytestconfig.stash[SERVICES]


@pytest.fixture(scope="session")
async def postgres(services: Services) -> AsyncIterator[PostgresServer]:
    """The server that all tests share; only databases of their own belong to them."""
    if services.backend is Backend.EXTERNAL:
        yield PostgresServer(services.database_url)
        return
    server = _new_postgres(services, {})
    try:
        await server.start()
        yield server
    finally:
        await server.remove()


@pytest.fixture(scope="session")
async def template_database(postgres: PostgresServer) -> AsyncIterator[str]:
    """Name of a database that the real migrations have made, for copying."""
    url = await postgres.create_database(migrated=True)
    yield url.rpartition("/")[2]
    await postgres.drop_database(url)


@pytest.fixture
async def database_url(postgres: PostgresServer, template_database: str) -> AsyncIterator[str]:
    """The address of a migrated database that belongs to this test."""
    url = await postgres.create_database(template_database)
    yield url
    await postgres.drop_database(url)


@pytest.fixture
async def empty_database_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The address of a database with nothing in it that belongs to this test."""
    url = await postgres.create_database()
    yield url
    await postgres.drop_database(url)


@pytest.fixture
async def private_postgres(services: Services) -> AsyncIterator[PrivatePostgres]:
    """Start servers of PostgreSQL that this test may kill, stop and freeze."""
    async with AsyncExitStack() as stack:

        async def start(settings: Mapping[str, str] | None = None) -> OwnPostgres:
            if services.backend is Backend.EXTERNAL:
                services.skip("nobody else's PostgreSQL is killed or frozen")
            server = _new_postgres(services, settings or {})
            stack.push_async_callback(server.remove)
            await server.start()
            return server

        yield start


@pytest.fixture(scope="session")
async def kafka(services: Services) -> AsyncIterator[Kafka]:
    """The cluster that all tests share; only topics of their own belong to them."""
    if services.bootstrap_servers:
        shared = RealKafka(services.bootstrap_servers)
        await shared.wait_until_ready(1, timedelta(minutes=3))  # others compute meanwhile
        yield shared
    elif services.backend is Backend.EMBEDDED:
        mock = MockKafka()
        yield mock
        mock.close()
    else:
        cluster = new_kafka(services)
        try:
            await cluster.start()
            yield cluster
        finally:
            await cluster.brokers.remove()


@pytest.fixture
async def private_kafka(services: Services) -> AsyncIterator[PrivateKafka]:
    """Start clusters of Kafka whose brokers this test may kill, stop and freeze."""
    async with AsyncExitStack() as stack:

        async def start(brokers: int = 1, properties: Mapping[str, str] | None = None) -> OwnKafka:
            if services.backend in {Backend.EMBEDDED, Backend.EXTERNAL}:
                services.skip("there are no brokers of its own to break")
            cluster = new_kafka(services, brokers, properties)
            stack.push_async_callback(cluster.brokers.remove)
            await cluster.start()
            return cluster

        yield start


@pytest.fixture
async def mock_kafka() -> AsyncIterator[Callable[[int], MockKafka]]:
    """Start mock clusters, whatever the backend: they answer with any error that a test asks for."""
    if importlib.util.find_spec("confluent_kafka") is None:
        pytest.skip("the mock cluster needs the package confluent-kafka")
    clusters: list[MockKafka] = []

    def start(brokers: int = 1) -> MockKafka:
        clusters.append(MockKafka(brokers))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture
async def tcp_proxy() -> AsyncIterator[Proxies]:
    """Put a network that can be cut, frozen and slowed down before a host and port."""
    async with AsyncExitStack() as stack:

        async def start(host: str, port: int) -> TcpProxy:
            return await stack.enter_async_context(TcpProxy(host, port))

        yield start


def _new_postgres(services: Services, settings: Mapping[str, str]) -> OwnPostgres:
    if services.backend is Backend.DOCKER:
        from tests.services.container_postgres import ContainerPostgres

        return ContainerPostgres(settings)
    return LocalPostgres(settings)
