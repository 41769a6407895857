"""What happens to the order without the rules that keep it: these variants must fail."""

import asyncpg
import pytest
from sqlalchemy import text

from app import outbox
from app.outbox import OutboxMessage, writer
from app.settings import Settings
from relay import store
from relay.outcomes import Delivered, OwedMessage
from relay.publisher import KafkaPublisher
from tests.engine import connect
from tests.judge import verify
from tests.ledger import Added, Ledger, added
from tests.relaying import hurried, running
from tests.services.kafka import Kafka
from tests.writers import driver, sessions_on

# The textbook's relay: each takes the oldest rows that nobody else has.
_TAKE = """
    SELECT lane, id, message_id::text, topic, key, headers, payload, type, created_at::text FROM outbox_messages
    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""


async def test_without_the_lock_of_the_key_messages_overtake(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = "pg_advisory_xact_lock(CAST(:namespace AS integer), bucket)"
    statement = writer._ADD.text
    assert lock in statement
    monkeypatch.setattr(writer, "_ADD", text(statement.replace(lock, "CAST(:namespace AS integer) + bucket")))
    topic = await kafka.create_topic()

    def message() -> OutboxMessage:
        return OutboxMessage(topic=topic, key=b"k", payload=b"{}", type="t")

    async with running(hurried(database_url, kafka.bootstrap_servers)), sessions_on(database_url, 2) as sessions:
        async with sessions() as slow, sessions() as quick:
            written: dict[str, list[Added]] = {}
            for name, session in (("slow", slow), ("quick", quick)):  # the slow one draws its id first
                new = message()
                await outbox.add(session, new)
                written[name] = await added(await driver(session), [new.message_id])
            await quick.commit()
            await kafka.records(topic, at_least=1)
            await slow.commit()
        with pytest.raises(AssertionError, match="came after"):
            await verify(kafka, database_url, [*written["slow"], *written["quick"]])


async def test_relays_that_take_rows_instead_of_lanes_overtake_each_other(database_url: str, kafka: Kafka) -> None:
    topic = await kafka.create_topic()
    settings = hurried(database_url, kafka.bootstrap_servers)
    async with connect(database_url) as connection:
        messages = await Ledger(connection).add(topic, [(b"k", b"first"), (b"k", b"second")])
    first, second = _RowWise(settings), _RowWise(settings)
    await first.take()
    await second.take()
    for relay in (second, first):  # the first one is only a little slower
        await relay.publish_and_settle()
    with pytest.raises(AssertionError, match="came after"):
        await verify(kafka, database_url, messages)


class _RowWise:
    """A relay that publishes and settles as ours does, but claims as the textbook says; step by step."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._publisher = KafkaPublisher(settings)
        self._connection: asyncpg.Connection
        self._messages: list[OwedMessage]

    async def take(self) -> None:
        await self._publisher.open()
        self._connection = await store.connect(self._settings)
        await self._connection.execute("BEGIN")
        self._messages = [OwedMessage(*row) for row in await self._connection.fetch(_TAKE)]

    async def publish_and_settle(self) -> None:
        deadline = self._settings.publish_deadline
        outcomes = await self._publisher.publish(self._messages, singly=(), deadline=deadline)
        confirmed = [outcome for outcome in outcomes if isinstance(outcome, Delivered)]
        await store.settle(self._connection, store.Settlement(delivered=confirmed), self._settings)
        await self._connection.execute("COMMIT")
        await self._publisher.close()
        await self._connection.close(timeout=10)
