"""PostgreSQL down, frozen, full or slow: an answer within 3 s, and work again when it is back, without a restart."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from sqlalchemy import event, make_url

from app.api.problems import MEDIA_TYPE
from tests.api import NOWHERE, PROMPT, Api, api_on
from tests.services.fixtures import PrivatePostgres, Proxies
from tests.services.proxy import TcpProxy

_SOON = 3.0  # seconds, from the promise
_EVENTUALLY = 30.0


@dataclass(frozen=True)
class _Behind:
    """The API, and the network between it and its database."""

    api: Api
    proxy: TcpProxy


@pytest.fixture
async def behind(database_url: str, tcp_proxy: Proxies) -> AsyncIterator[_Behind]:
    address = make_url(database_url)
    proxy = await tcp_proxy(address.host or "localhost", address.port or 5432)
    async with api_on(proxy.through(database_url), api_pool_size=3, **PROMPT) as api:
        yield _Behind(api, proxy)


async def _refused(api: Api, attempts: int = 1) -> None:
    """All of so many requests at once are answered soon, with 503 and when to come again."""

    async def attempt() -> None:
        started = time.monotonic()
        response = await api.apply()
        assert time.monotonic() - started < _SOON
        assert response.status_code == 503
        assert response.headers["content-type"] == MEDIA_TYPE
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["type"] == "/problems/unavailable"

    await asyncio.gather(*(attempt() for _ in range(attempts)))


async def _works_again(api: Api) -> None:
    async with asyncio.timeout(_EVENTUALLY):
        while (await api.apply()).status_code == 503:
            continue
    # All connections of the pool, not only the first.
    responses = await asyncio.gather(*(api.apply() for _ in range(2 * api.settings.api_pool_size)))
    assert {response.status_code for response in responses} == {201}
    rows, messages = await api.stored()
    assert rows == messages


async def test_nothing_listens() -> None:
    async with api_on(NOWHERE) as api:
        await _refused(api, 5)
        assert (await api.client.get("/applications")).status_code == 503
        assert (await api.client.get("/applications/1")).status_code == 503


async def test_nobody_answers_at_all(tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy("127.0.0.1", 1)
    proxy.pause()
    async with api_on(proxy.through(NOWHERE), **PROMPT) as api:
        await _refused(api, 3)


async def test_connections_cut_and_restored(behind: _Behind) -> None:
    assert (await behind.api.apply()).status_code == 201
    await behind.proxy.cut()
    await _refused(behind.api, 5)
    await behind.proxy.restore()
    await _works_again(behind.api)


async def test_a_frozen_network(behind: _Behind) -> None:
    await asyncio.gather(*(behind.api.apply() for _ in range(5)))
    behind.proxy.pause()
    await _refused(behind.api, 7)  # more than there are connections
    started = time.monotonic()
    assert (await behind.api.client.get("/readyz")).status_code == 503
    assert time.monotonic() - started < _SOON
    assert (await behind.api.client.get("/livez")).status_code == 200
    behind.proxy.resume()
    await _works_again(behind.api)


async def test_a_network_that_freezes_at_the_commit(behind: _Behind) -> None:
    # The rows are written, the COMMIT gets no answer. SQLAlchemy lets it run to completion even when cancelled.
    assert (await behind.api.apply()).status_code == 201
    engine = behind.api.engine.sync_engine

    def freeze(_: object) -> None:
        behind.proxy.pause()

    event.listen(engine, "commit", freeze)
    await _refused(behind.api)
    event.remove(engine, "commit", freeze)
    behind.proxy.resume()
    await _works_again(behind.api)


async def test_a_server_that_is_stopped_killed_and_frozen(private_postgres: PrivatePostgres) -> None:
    server = await private_postgres()
    url = await server.create_database(migrated=True)
    async with api_on(url, api_pool_size=3, **PROMPT) as api:
        assert (await api.apply()).status_code == 201
        await server.stop()
        await _refused(api, 5)
        await server.start()
        await _works_again(api)
        await server.kill()
        await _refused(api, 5)
        await server.start()
        await _works_again(api)
        await server.pause()
        await _refused(api, 5)
        await server.resume()
        await _works_again(api)


async def test_sessions_ended_by_the_operator(behind: _Behind) -> None:
    api = behind.api
    await asyncio.gather(*(api.apply() for _ in range(5)))
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(api.engine.connect())
        await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await _works_again(api)


async def test_a_restart_between_two_requests_is_not_noticed(private_postgres: PrivatePostgres) -> None:
    server = await private_postgres()
    url = await server.create_database(migrated=True)
    async with api_on(url, api_pool_size=3) as api:
        await asyncio.gather(*(api.apply() for _ in range(6)))
        await server.restart()
        responses = await asyncio.gather(*(api.apply() for _ in range(6)))
        assert [response.status_code for response in responses] == [201] * 6


async def test_no_connection_is_free(database_url: str) -> None:
    async with api_on(database_url, api_pool_size=2, api_database_deadline=0.5) as api:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(api.engine.connect())
            await _refused(api, 5)
        await _works_again(api)


async def test_a_lock_that_is_held_for_long(database_url: str) -> None:
    async with api_on(database_url, lock_timeout=0.2) as api:
        async with api.engine.begin() as connection:
            await connection.exec_driver_sql("LOCK TABLE applications IN ACCESS EXCLUSIVE MODE")
            await _refused(api, 3)
        await _works_again(api)


async def test_a_server_that_refuses_writes(database_url: str) -> None:
    # As after a fail-over, when the old primary still answers.
    async with api_on(database_url, api_pool_size=1) as api:
        async with api.engine.connect() as connection:
            await connection.exec_driver_sql("SET default_transaction_read_only = on")
            await connection.commit()
        await _refused(api)
        async with api.engine.connect() as connection:
            await connection.exec_driver_sql("SET default_transaction_read_only = off")
            await connection.commit()
        await _works_again(api)


async def test_missing_tables_are_our_fault(empty_database_url: str) -> None:
    async with api_on(empty_database_url) as api:
        response = await api.apply()
        assert response.status_code == 500
        assert set(response.json()) == {"type", "title", "status", "reference"}
