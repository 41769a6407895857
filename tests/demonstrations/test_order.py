"""What happens to the order without the rules that keep it: these variants must fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from app.outbox import writer
from app.settings import Settings
from relay import store
from relay.outcomes import Delivered, OwedMessage
from relay.publisher import KafkaPublisher
from tests.judge import verify
from tests.relaying import hurried, running
from tests.services.kafka import Kafka
from tests.writers import write

# The textbook's relay: each takes the oldest rows that nobody else has.
_TAKE = """
    SELECT lane, id, message_id::text, topic, key, headers, payload, type, created_at::text FROM outbox_messages
    ORDER BY id LIMIT 20 FOR UPDATE SKIP LOCKED
"""


async def test_without_the_lock_of_the_key_messages_overtake(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = "pg_advisory_xact_lock(CAST(:namespace AS integer), bucket)"
    statement = writer._ADD.text
    assert lock in statement
    monkeypatch.setattr(writer, "_ADD", text(statement.replace(lock, "CAST(:namespace AS integer) + bucket")))
    topic = await kafka.create_topic()
    async with running(hurried(database_url, kafka.bootstrap_servers)):
        messages = await write(database_url, [topic])
        with pytest.raises(AssertionError, match="came after"):
            await verify(kafka, database_url, messages)


async def test_relays_that_take_rows_instead_of_lanes_overtake_each_other(database_url: str, kafka: Kafka) -> None:
    topic = await kafka.create_topic()
    messages = await write(database_url, [topic])  # a backlog first: each relay finds rows of the same keys
    async with _row_wise(hurried(database_url, kafka.bootstrap_servers), relays=4):
        with pytest.raises(AssertionError, match="came after"):
            await verify(kafka, database_url, messages)


@asynccontextmanager
async def _row_wise(settings: Settings, *, relays: int) -> AsyncIterator[None]:
    """Relays that publish and settle as ours do, but claim as the textbook says."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(relays):
            group.create_task(_relay(settings, stop))
        try:
            yield
        finally:
            stop.set()


async def _relay(settings: Settings, stop: asyncio.Event) -> None:
    publisher = KafkaPublisher(settings)
    connection = await store.connect(settings)
    try:
        while not stop.is_set():
            await publisher.open()
            async with connection.transaction():
                messages = [OwedMessage(*row) for row in await connection.fetch(_TAKE)]
                outcomes = await publisher.publish(messages, singly=(), deadline=settings.publish_deadline)
                confirmed = [outcome for outcome in outcomes if isinstance(outcome, Delivered)]
                await store.settle(connection, store.Settlement(delivered=confirmed), settings)
    finally:
        await publisher.close()
        await connection.close(timeout=10)
