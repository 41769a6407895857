"""What operators do, each act in a transaction of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from app.outbox import operators
from tests.ledger import Added


@asynccontextmanager
async def _session(database_url: str) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session
    await engine.dispose()


async def pause(database_url: str, topic: str) -> None:
    async with _session(database_url) as session:
        await operators.pause(session, topic, by="test", reason="test")


async def resume(database_url: str, topic: str) -> None:
    async with _session(database_url) as session:
        await operators.resume(session, topic)


async def set_policy(database_url: str, topic: str, policy: operators.Policy) -> None:
    await begin_policy(database_url, topic, policy)
    await finish_policy(database_url, topic, policy)


async def begin_policy(database_url: str, topic: str, policy: operators.Policy) -> None:
    """The first transaction of two; whoever makes no more of it than that is dead or slow."""
    async with _session(database_url) as session:
        await operators.set_policy(session, topic, policy)


async def finish_policy(database_url: str, topic: str, policy: operators.Policy) -> None:
    async with _session(database_url) as session:
        await operators.apply_policy(session, topic, policy)


async def retry(database_url: str, dead_letter: Added) -> None:
    async with _session(database_url) as session:
        await operators.retry(session, operators.ByIds((dead_letter.message_id,)), by="test")


async def discard(database_url: str, dead_letter: Added) -> None:
    async with _session(database_url) as session:
        await operators.discard(session, operators.ByIds((dead_letter.message_id,)), by="test", reason="not wanted")
