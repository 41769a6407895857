"""A topic, its messages and receipts, in the hands of a test that may do with them what a relay never would."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaProducer

from app.audit import Finding, Intake, Kind, Report, Scope, audit
from app.outbox.fingerprint import fingerprint
from app.settings import Settings
from relay.outcomes import OwedMessage
from relay.partitioner import partition_of
from relay.publisher import record_headers
from tests.engine import connect, empty
from tests.ledger import Added, Ledger
from tests.relaying import hurried, running
from tests.services.kafka import Kafka

PARTITIONS = 3
_RECEIPT = """
    INSERT INTO outbox_receipts (message_id, topic, partition, "offset", created_at, delivered_at, fingerprint, id)
    VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp(), $5, $6)
"""
Place = tuple[int, int]
"""Partition and offset."""


class Scene:
    """What PostgreSQL and Kafka hold of one topic."""

    def __init__(self, kafka: Kafka, settings: Settings, connection: asyncpg.Connection, topic: str) -> None:
        self.kafka = kafka
        self.settings = settings
        self.connection = connection
        self.topic = topic
        self.ledger = Ledger(connection)
        self._producer: AIOKafkaProducer | None = None

    async def add(self, *pairs: tuple[bytes | None, bytes | None], topic: str | None = None) -> list[Added]:
        """Owe messages with these keys and payloads."""
        return await self.ledger.add(topic or self.topic, pairs)

    async def deliver(self) -> None:
        """Let a relay deliver all that is owed."""
        async with running(self.settings):
            await empty(str(self.settings.database_url.get_secret_value()))  # type: ignore[union-attr]  # it is set

    async def produce(
        self,
        message: Added,
        *,
        message_id: UUID | None = None,
        payload: bytes | None = None,
        topic: str | None = None,
        timestamp: int | None = None,
    ) -> Place:
        """Put a record of the message, or one like it, into a topic; where it lies."""
        owed = OwedMessage(
            lane=0,
            id=message.id,
            message_id=str(message_id or message.message_id),
            topic=message.topic,
            key=message.key,
            headers=message.headers,
            payload=message.payload if payload is None else payload,
            type=message.type,
            created_at=1_767_323_045_678_901,
        )
        return await self.send(topic or self.topic, owed.key, owed.payload, record_headers(owed), timestamp=timestamp)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes]] = (),
        *,
        timestamp: int | None = None,
    ) -> Place:
        """Put any record into a topic."""
        if self._producer is None:
            self._producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap_servers, acks="all")
            await self._producer.start()
        where = 0 if key is None else partition_of(key, PARTITIONS)
        sent = await self._producer.send_and_wait(
            topic, value, key=key, headers=list(headers), partition=where, timestamp_ms=timestamp
        )
        return sent.partition, sent.offset

    async def settle(self, message: Added, place: Place, *, with_id: bool = True) -> None:
        """Write the receipt as a relay does, and owe the message no longer."""
        await self.connection.execute("DELETE FROM outbox_messages WHERE message_id = $1", message.message_id)
        await self.receipt(message, place, with_id=with_id)

    async def receipt(self, message: Added, place: Place, *, with_id: bool = True) -> None:
        number = message.id if with_id else None
        await self.connection.execute(_RECEIPT, message.message_id, message.topic, *place, fingerprint(message), number)

    async def deliver_by_hand(self, messages: Sequence[Added]) -> list[Place]:
        """As a relay would, in this order."""
        places = [await self.produce(message) for message in messages]
        for message, place in zip(messages, places, strict=True):
            await self.settle(message, place)
        return places

    async def place(self, message: Added) -> Place:
        """Where its receipt says that it is."""
        row = await self.connection.fetchrow(
            'SELECT partition, "offset" FROM outbox_receipts WHERE message_id = $1', message.message_id
        )
        return row[0], row[1]

    async def audited(self, scope: Scope | None = None, intakes: Sequence[Intake] = (), **options: Any) -> Report:
        return await audit(self.settings, scope, intakes=intakes, **options)

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()


@asynccontextmanager
async def scene_on(database_url: str, kafka: Kafka, **overrides: object) -> AsyncIterator[Scene]:
    """A new topic, on a database of its own."""
    settings = hurried(database_url, kafka.bootstrap_servers, kafka_check_crcs=kafka.real, **overrides)
    async with connect(database_url) as connection:
        scene = Scene(kafka, settings, connection, await kafka.create_topic(partitions=PARTITIONS))
        try:
            yield scene
        finally:
            await scene.close()


def found(report: Report) -> dict[Kind, int]:
    """How often each kind was found."""
    return {finding.kind: finding.count for finding in report.findings}


def only(report: Report, kind: Kind, *places: tuple[Added | None, Place]) -> Finding:
    """The only finding, a violation, and these are its examples."""
    (finding,) = report.findings
    assert finding.kind is kind
    assert finding.violation
    assert not report.ok
    expected = {(message and str(message.message_id), *place) for message, place in places}
    assert {(each.message_id, each.partition, each.offset) for each in finding.examples} == expected
    assert finding.count == len(places)
    return finding
