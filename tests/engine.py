"""The engine in a test: messages into it, relays on it, and a Kafka in memory that keeps what came out."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from uuid import UUID

import asyncpg
from aiokafka import ConsumerRecord

from app.errors import BrokerUnavailable
from app.settings import Settings, load
from relay import store
from relay.loop import Relay
from relay.outcomes import (
    BatchRefused,
    Delivered,
    Outcome,
    OwedMessage,
    Publisher,
    Refused,
    TopicUnavailable,
    Unknown,
    Unsent,
)
from relay.partitioner import partition_of
from tests.judge import judge, read
from tests.ledger import Added
from tests.record_headers import record_headers
from tests.relaying import running
from tests.services.kafka import Record
from tests.services.postgres_server import dsn
from tests.waiting import until

_BATCH = 100


class Broker:
    """What a cluster would hold. Tests tell it what to refuse; `publisher` makes the slots' way to it."""

    def __init__(self, partitions: int = 4) -> None:
        self.partitions = partitions
        self.records: list[Record] = []
        self.arrived_at: dict[UUID, float] = {}
        """When each message first came (monotonic seconds)."""
        self.order: list[int] = []
        """Ids as they came, repeats included."""
        self.poison: set[bytes] = set()
        """Payloads that are refused for what they are."""
        self.unavailable: set[str] = set()
        """Topics that take nothing."""
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(_open_gate)
        """A topic answers while its gate is set."""
        self.waiting: set[str] = set()
        """Topics with a batch that has no answer yet."""
        self.attempts: list[int] = []
        """Ids as they were offered to a topic, whatever became of them."""
        self.down = False
        self._offsets: defaultdict[tuple[str, int], itertools.count[int]] = defaultdict(itertools.count)

    def publisher(self) -> Publisher:
        return _InMemory(self)

    def append(self, batch: Sequence[OwedMessage], partition: int) -> int:
        """Keep the batch; the offset of its first record."""
        first = -1
        for message in batch:
            offset = next(self._offsets[message.topic, partition])
            first = offset if first < 0 else first
            self.records.append(_record(message, partition, offset))
            self.arrived_at.setdefault(UUID(message.message_id), time.monotonic())
            self.order.append(message.id)
        return first

    def ids(self, topic: str, key: bytes | None = None) -> list[int]:
        """Ids of what came to this topic, with this key if given, in order."""
        pairs = zip(self.order, self.records, strict=True)
        return [number for number, record in pairs if record.topic == topic and (key is None or record.key == key)]


class _InMemory:
    """Like `relay.publisher.KafkaPublisher`, without Kafka."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._partition = itertools.count()

    async def open(self) -> None:
        if self._broker.down:
            raise BrokerUnavailable("down")

    async def close(self) -> None:
        pass

    async def publish(
        self, messages: Sequence[OwedMessage], *, singly: Collection[str], deadline: timedelta
    ) -> list[Outcome]:
        parts: defaultdict[tuple[str, int], list[OwedMessage]] = defaultdict(list)
        anywhere = next(self._partition) % self._broker.partitions
        for message in messages:
            partition = anywhere if message.key is None else partition_of(message.key, self._broker.partitions)
            parts[message.topic, partition].append(message)
        results = await asyncio.gather(
            *(self._part(part, *place, singly=place[0] in singly, deadline=deadline) for place, part in parts.items())
        )
        return [outcome for outcomes in results for outcome in outcomes]

    async def _part(
        self, messages: list[OwedMessage], topic: str, partition: int, *, singly: bool, deadline: timedelta
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        size = 1 if singly else _BATCH
        for start in range(0, len(messages), size):
            batch, rest = messages[start : start + size], messages[start + size :]
            outcomes.append(await self._send(batch, topic, partition, deadline))
            if not isinstance(outcomes[-1], Delivered):
                return [*outcomes, Unsent(rest)] if rest else outcomes
        return outcomes

    async def _send(self, batch: list[OwedMessage], topic: str, partition: int, deadline: timedelta) -> Outcome:
        broker = self._broker
        broker.attempts += [message.id for message in batch]
        if not broker.gates[topic].is_set():
            broker.waiting.add(topic)
            try:
                async with asyncio.timeout(deadline.total_seconds()):
                    await broker.gates[topic].wait()
            except TimeoutError:
                return Unknown(batch, "TimeoutError")
            finally:
                broker.waiting.discard(topic)
        if topic in broker.unavailable:
            return TopicUnavailable(topic, batch, "TOPIC_AUTHORIZATION_FAILED")
        if any(message.payload in broker.poison for message in batch):
            reason = "MESSAGE_TOO_LARGE"
            return Refused(batch[0], reason) if len(batch) == 1 else BatchRefused(batch, reason)
        return Delivered(batch, partition, broker.append(batch, partition))


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def _record(message: OwedMessage, partition: int, offset: int) -> Record:
    return ConsumerRecord(
        topic=message.topic,
        partition=partition,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=message.key,
        value=message.payload,
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=-1,
        headers=record_headers(message),
    )


def settings(database_url: str, **overrides: object) -> Settings:
    """Settings that no environment has a say in; numbers low where a test would wait for them."""
    defaults = {"relay_probe_min": 0.1, "relay_floor_interval": 0.01, "relay_scan_interval": 1}
    return load(_env_file=None, database_url=database_url, **(defaults | overrides))


def engine(database_url: str, broker: Broker, **overrides: object) -> AbstractAsyncContextManager[Relay]:
    """A relay in this process that delivers to `broker` until the end of the block."""
    return running(settings(database_url, **overrides), broker.publisher)


@asynccontextmanager
async def connect(database_url: str, **options: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain session; `options` are settings of it."""
    connection = await asyncpg.connect(dsn(database_url), timeout=30, server_settings=options)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


@asynccontextmanager
async def slot_session(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session as a slot has it, for its statements one by one."""
    connection = await store.connect(settings(database_url))
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def empty(database_url: str, timeout: timedelta = timedelta(seconds=60)) -> None:
    """Wait until nothing is owed, neither in the lanes nor parked."""
    async with connect(database_url) as connection:

        async def nothing_is_owed() -> bool:
            return not await connection.fetchval(
                "SELECT EXISTS (TABLE outbox_messages) OR EXISTS (TABLE outbox_parked)"
            )

        await until(nothing_is_owed, timeout)


async def assess(database_url: str, broker: Broker, messages: Iterable[Added], **expected: object) -> None:
    """What `tests.judge` says of a broker in memory and of what PostgreSQL holds; arguments as of `judge`."""
    async with connect(database_url) as connection:
        receipts, left = await read(connection)
    records = sorted(broker.records, key=lambda record: (record.topic, record.partition, record.offset))
    judge(messages, records, receipts, left, **expected)  # type: ignore[arg-type]  # passed on as they are
