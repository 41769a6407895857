"""Somebody holds what the service needs in PostgreSQL: connections, the table itself, or a migration that wants it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from app import migrate
from app.db import sqlstate
from tests.api import api_on
from tests.engine import connect
from tests.faults.service import HEALED, service_on
from tests.services.kafka import Kafka
from tests.waiting import until

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]

_LOCK_NOT_AVAILABLE = "55P03"
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
# Nothing but the time-out of locks ends a request that waits for one.
_PATIENT: dict[str, Any] = {"api_database_deadline": 60}
# The way to it, and the way back, change constraints of the outbox.
_BEFORE = "engine_0006"
_QUEUE = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'outbox_messages'::regclass"


async def test_slow_queries_hold_all_connections_of_the_api(kafka: Kafka, database_url: str) -> None:
    async with service_on(kafka, database_url, api_pool_size=2) as service:
        over = asyncio.Event()

        async def slow() -> None:
            async with service.api.engine.connect() as connection:
                while not over.is_set():
                    await connection.exec_driver_sql("SELECT pg_sleep(1)")

        async with asyncio.TaskGroup() as hogs:
            for _ in range(service.settings.api_pool_size):
                hogs.create_task(slow())
            try:
                await service.refuses()
                # Each role has a pool of its own: requests over Kafka and their replies do not wait.
                await service.goes_on_without_the_api()
            finally:
                over.set()
        await service.goes_on()
        service.refused_soon()


@asynccontextmanager
async def _locked(connection: asyncpg.Connection) -> AsyncIterator[None]:
    async with connection.transaction():
        await connection.execute("LOCK TABLE outbox_messages IN ACCESS EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def _counted(connection: asyncpg.Connection, statement: str, *arguments: str) -> AsyncIterator[list[int]]:
    """What the statement counts, again and again until the end of the block."""
    counts: list[int] = []
    over = asyncio.Event()

    async def count() -> bool:
        counts.append(await connection.fetchval(statement, *arguments))
        return over.is_set()

    counting = asyncio.create_task(until(count, HEALED))
    try:
        yield counts
    finally:
        over.set()
        await counting


async def test_the_outbox_is_locked(kafka: Kafka, database_url: str) -> None:
    async with (
        service_on(kafka, database_url, api_pool_size=2, lock_timeout=0.5, **_PATIENT) as service,
        connect(database_url) as locker,
        connect(database_url) as watcher,
    ):
        pool = service.settings.api_pool_size
        async with _locked(locker):
            # Nobody piles up: not in the pool, which has fewer connections than there are clients, and not before the
            # table.
            async with _counted(watcher, _SESSIONS, "outbox-api") as sessions:
                await service.refuses(20)
            assert max(sessions) <= pool
            assert await watcher.fetchval(_QUEUE) <= pool + service.settings.relay_slots + 2
        await service.goes_on()
        service.refused_soon()


async def test_a_migration_under_load_gives_up(kafka: Kafka, database_url: str) -> None:
    async with (
        service_on(kafka, database_url) as service,
        connect(database_url) as writer,
        connect(database_url) as watcher,
    ):

        async def waits_for_it() -> bool:
            return bool(await watcher.fetchval(_QUEUE))

        async with writer.transaction():  # somebody's long transaction, which the migration would wait for
            await writer.fetchval("SELECT count(*) FROM outbox_messages")
            migrating = asyncio.create_task(migrate.downgrade(database_url, _BEFORE))
            await until(waits_for_it)
            with pytest.raises(DBAPIError) as caught:
                await asyncio.wait_for(migrating, 10)  # as documented, it waits for 5 s
            assert sqlstate(caught.value) == _LOCK_NOT_AVAILABLE
            await service.goes_on()  # although that transaction is still open
            await migrate.upgrade(database_url, message_max_bytes=800_000)  # another limit needs no lock
        service.refused_soon()
        await migrate.downgrade(database_url, _BEFORE)
        await migrate.upgrade(database_url)
        await service.goes_on()


async def test_requests_for_a_locked_table_are_refused_one_by_one(database_url: str) -> None:
    async with (
        api_on(database_url, api_pool_size=3, lock_timeout=0.2, **_PATIENT) as api,
        connect(database_url) as locker,
        connect(database_url) as watcher,
    ):
        async with _locked(locker), _counted(watcher, _QUEUE) as queue:
            async with asyncio.timeout(30):
                answers = await asyncio.gather(*(api.apply() for _ in range(30)))
        assert {answer.status_code for answer in answers} == {503}
        assert 0 < max(queue) <= api.settings.api_pool_size
        assert (await api.apply()).status_code == 201
