"""Writers that do all that a transaction can do around an outbox, at random, for a while."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import make_url

from relay import store
from tests.engine import connect
from tests.ledger import Added, added
from tests.services.postgres_server import PostgresServer
from tests.waiting import until

# Few lanes, so that many messages of one lane are on their way at once.
_ADD = "SELECT outbox_add('t', convert_to($1, 'UTF8'), '\\x00'::bytea)"
_INSERT = """
    INSERT INTO outbox_messages (lane, topic, payload, type)
    SELECT floor(random() * 2), 'u', '\\x01', 'plain' FROM generate_series(1, $1) RETURNING message_id
"""
_STRANDED = (
    "SELECT m.lane, m.id FROM outbox_lanes AS l JOIN outbox_messages AS m ON m.lane = l.lane AND m.id <= l.floor"
)


class History:
    """One writer: a connection, its chance, and what it committed."""

    def __init__(self, connection: asyncpg.Connection, other: asyncpg.Connection, name: str) -> None:
        self._connection = connection
        self._other = other
        self._name = name
        self._chance = random.Random(name)
        self._prepared = 0
        self.committed: list[Added] = []

    async def write(self, end: asyncio.Event) -> None:
        while not end.is_set():
            acts = (self._commit, self._commit, self._write_first, self._abort, self._savepoint, self._prepare)
            await self._chance.choice(acts)()

    async def _delay(self) -> None:
        chance = self._chance
        await self._connection.execute("SELECT pg_sleep($1)", 0.3 if chance.random() < 0.03 else chance.random() / 50)

    async def _add(self) -> list[UUID]:
        connection, chance = self._connection, self._chance
        match chance.randrange(3):
            case 0:
                return [row[0] for row in await connection.fetch(_INSERT, chance.randrange(1, 4))]
            case 1:  # COPY gets its ids from the same default
                row = (chance.randrange(2), message_id := UUID(int=chance.getrandbits(128)), "u", b"\x02", "copy")
                columns = ["lane", "message_id", "topic", "payload", "type"]
                await connection.copy_records_to_table("outbox_messages", records=[row], columns=columns)
                return [message_id]
            case _:
                return [await connection.fetchval(_ADD, f"key {chance.randrange(3)}")]

    async def _commit(self) -> None:
        async with self._connection.transaction():
            rows = await added(self._connection, await self._add())
            await self._delay()
        self.committed += rows

    async def _write_first(self) -> None:
        """The transaction has its xid long before it draws an id."""
        async with self._connection.transaction():
            await self._connection.execute("SELECT pg_current_xact_id()")
            await self._delay()
            rows = await added(self._connection, await self._add())
        self.committed += rows

    async def _abort(self) -> None:
        transaction = self._connection.transaction()
        await transaction.start()
        await self._add()
        await self._delay()
        await transaction.rollback()

    async def _savepoint(self) -> None:
        async with self._connection.transaction():
            undone = self._connection.transaction()
            await undone.start()
            await self._add()
            await undone.rollback()
            async with self._connection.transaction():
                rows = await added(self._connection, await self._add())
            await self._delay()
        self.committed += rows

    async def _prepare(self) -> None:
        self._prepared += 1
        name = f"{self._name} {self._prepared}"
        await self._connection.execute("BEGIN")
        rows = await added(self._connection, await self._add())
        await self._connection.execute(f"PREPARE TRANSACTION '{name}'")
        await self._delay()
        if self._chance.random() < 0.3:
            await self._other.execute(f"ROLLBACK PREPARED '{name}'")
        else:
            await self._other.execute(f"COMMIT PREPARED '{name}'")
            self.committed += rows


async def write_histories(
    postgres: PostgresServer,
    database_url: str,
    duration: timedelta,
    *,
    stop: Callable[[], Awaitable[bool]],
    writers: int = 8,
) -> list[Added]:
    """Let writers write for so long, or until `stop` says so, beside transactions in another database."""
    deadline, end = time.monotonic() + duration.total_seconds(), asyncio.Event()
    histories: list[History] = []

    async def over() -> bool:
        return time.monotonic() > deadline or await stop()

    async with asyncio.TaskGroup() as group:
        group.create_task(_write_elsewhere(postgres.admin_url, end))
        for number in range(writers):
            group.create_task(_write(database_url, f"{make_url(database_url).database} {number}", histories, end))
        await until(over, 2 * duration)
        end.set()  # each ends what it has begun: a prepared transaction would stay
    return [message for history in histories for message in history.committed]


async def _write(database_url: str, name: str, histories: list[History], end: asyncio.Event) -> None:
    async with connect(database_url) as connection, connect(database_url) as other:
        history = History(connection, other, name)
        histories.append(history)
        await history.write(end)


async def _write_elsewhere(url: str, end: asyncio.Event) -> None:
    """Transactions with an xid in another database hold back all floors of the cluster while they last."""
    chance = random.Random(url)
    async with connect(url) as connection:
        while not end.is_set():
            async with connection.transaction():
                await connection.execute("SELECT pg_current_xact_id()")
                await connection.execute("SELECT pg_sleep($1)", chance.random() / 20)
            await connection.execute("SELECT pg_sleep($1)", chance.random() / 10)


async def stranded(connection: asyncpg.Connection) -> list[tuple[int, int]]:
    """Messages (lane, id) that no relay would find. There must never be one."""
    return [tuple(row) for row in await connection.fetch(_STRANDED)]


def slow_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots take a moment between claim and fetch, in which others go on: wrong rules strand messages there."""
    fetch = store.fetch

    async def slow(connection: asyncpg.Connection, *arguments: Any, **limits: Any) -> store.Fetched:
        await connection.execute("SELECT pg_sleep(0.02)")
        return await fetch(connection, *arguments, **limits)

    monkeypatch.setattr(store, "fetch", slow)
