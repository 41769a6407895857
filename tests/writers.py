"""Many writers at once, with random delays, as services are."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from app import outbox
from app.outbox import OutboxMessage
from tests.ledger import Added, added

_SLEEP = text("SELECT pg_sleep(:seconds)")


@asynccontextmanager
async def sessions_on(database_url: str, size: int) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Sessions for so many writers at once."""
    engine = create_async_engine(database_url, pool_size=size, max_overflow=0)
    yield async_sessionmaker(engine, expire_on_commit=False)
    await engine.dispose()


async def driver(session: AsyncSession) -> asyncpg.Connection:
    """The connection of a session, in the transaction in which the session is."""
    raw = await (await session.connection()).get_raw_connection()
    return raw.driver_connection


async def write(
    database_url: str, topics: Sequence[str], *, writers: int = 16, transactions: int = 40, seed: int = 1
) -> list[Added]:
    """What writers with hot and cold keys and random delays before their commits have committed."""
    committed: list[Added] = []
    async with sessions_on(database_url, writers) as sessions, asyncio.TaskGroup() as group:
        for number in range(writers):
            group.create_task(_writer(sessions, topics, transactions, random.Random(f"{seed} {number}"), committed))
    return committed


async def _writer(
    sessions: async_sessionmaker[AsyncSession],
    topics: Sequence[str],
    transactions: int,
    chance: random.Random,
    committed: list[Added],
) -> None:
    for _ in range(transactions):
        async with sessions() as session:
            messages = [_message(topics, chance) for _ in range(chance.choice((1, 1, 2, 5)))]
            await outbox.add(session, *messages)
            rows = await added(await driver(session), [message.message_id for message in messages])
            await session.execute(_SLEEP, {"seconds": chance.expovariate(200)})
            if chance.random() < 0.1:
                await session.rollback()
                continue
            await session.commit()
            committed += rows


def _message(topics: Sequence[str], chance: random.Random) -> OutboxMessage:
    key = b"hot %d" % chance.randrange(3) if chance.random() < 0.5 else b"cold %d" % chance.randrange(500)
    return OutboxMessage(topic=chance.choice(topics), key=key, payload=chance.randbytes(20), type="test")
