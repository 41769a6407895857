"""What happens to the order with the textbook's relay. Smaller mistakes are in `tests/seeded_bugs`."""

import asyncpg
import pytest

from app.settings import Settings
from relay import store
from relay.outcomes import Delivered, OwedMessage
from relay.publisher import KafkaPublisher
from relay.settlement import Settlement, settle
from tests.engine import connect
from tests.judge import verify
from tests.ledger import Ledger
from tests.relaying import hurried
from tests.services.kafka import Kafka

# The textbook's relay: each takes the oldest rows that nobody else has.
_TAKE = """
    SELECT lane, id, message_id::text, topic, key, headers, payload, type, created_at, NULL, NULL, ctid
    FROM outbox_messages ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""


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
        await settle(self._connection, Settlement(delivered=confirmed), self._settings)
        await self._connection.execute("COMMIT")
        await self._publisher.close()
        await self._connection.close(timeout=10)
