"""The Kafka producer: how one is made, how it sends, and how one is got rid of at once, whatever the broker does.

Connections, metadata and the structures of the protocol are aiokafka's. Its own producer hands each batch through a
queue to a task that sends, again and again if it must, and can only be stopped from its inside
(docs/decisions/0016-produce-requests-are-made-here.md). Of the inside of aiokafka 0.14 a little is used here too: the
version is pinned, and tests hold it to this.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TypeAlias

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import (
    BrokerResponseError,
    CorrelationIdError,
    KafkaConnectionError,
    KafkaError,
    KafkaStorageError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    ProducerClosed,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
    kafka_errors,
)
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from app import failpoints
from app.broker import RETRY_PAUSE, connection_options
from app.errors import BrokerUnavailable
from app.settings import KafkaSettings
from relay.records import RecordBatch

_START = timedelta(seconds=15)
_PATIENCE = (0.05, 0.15, 0.3, 0.5)
"""Pauses, in seconds, between looks at metadata that are not there yet: a second in all."""
_ALL_IN_SYNC = -1
_NO_TRANSACTION = 2**31 - 1  # milliseconds that one may take
_SEQUENCES = 2**31

Place: TypeAlias = tuple[str, int]
"""A topic and one of its partitions."""


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """INVALID_RECORD, which aiokafka does not know: the broker will never take this record."""

    errno = 87
    message = "INVALID_RECORD"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

UNSURE = (CorrelationIdError, KafkaConnectionError, NotEnoughReplicasAfterAppendError, RequestTimedOutError)
"""Errors that do not say whether the batch was stored."""

PASSING = (
    *UNSURE,
    KafkaStorageError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    UnknownTopicOrPartitionError,
)
"""Errors after which the very same batch may be sent again: a broker that has it knows it by its sequence (KIP-98)."""


class Producer:
    """An idempotent producer. Of each partition it has one batch on its way, and to each broker one request."""

    def __init__(self, settings: KafkaSettings) -> None:
        options = connection_options(settings)
        self.client = AIOKafkaClient(client_id="outbox-relay", **options)
        self._timeout_ms = options["request_timeout_ms"]
        self._closed = False
        self._id, self._epoch = -1, -1
        self._sequences: defaultdict[Place, int] = defaultdict(int)

    async def start(self) -> None:
        """Reach a broker, and be given an id. Raises KafkaError."""
        await self.client.bootstrap()
        request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=_NO_TRANSACTION)
        while True:
            with contextlib.suppress(*PASSING):
                answer = await self.client.send(self.client.get_random_node(), request)
                if not answer.error_code:
                    self._id, self._epoch = answer.producer_id, answer.producer_epoch
                    return
                error = for_code(answer.error_code)
                if not error.retriable:
                    raise error
            await self.recover()

    def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has, as far as is known."""
        known = self.client.cluster.partitions_for_topic(topic)
        return None if known is None else len(known)

    async def await_partitions(self, topic: str) -> None:
        """Return when the topic's partitions are known; one that is just being created gets a second.

        Raises UnknownTopicOrPartitionError, TopicAuthorizationFailedError, or KafkaConnectionError when no broker
        answers.
        """
        pauses = iter((0.0, *_PATIENCE))
        while self.partitions(topic) is None:
            await self._refresh(topic, pauses, or_else=UnknownTopicOrPartitionError)
            if topic in self.client.cluster.unauthorized_topics:
                raise TopicAuthorizationFailedError

    def leader(self, topic: str, partition: int) -> int | None:
        """The broker that leads the partition, as far as is known."""
        node: int | None = self.client.cluster.leader_for_partition(TopicPartition(topic, partition))
        return None if node == -1 else node

    async def await_leader(self, topic: str, partition: int) -> None:
        """Return when the partition has a leader; one that has none gets a second.

        Raises LeaderNotAvailableError, or KafkaConnectionError when no broker answers.
        """
        pauses = iter(_PATIENCE)
        while self.leader(topic, partition) is None:
            await self._refresh(topic, pauses, or_else=LeaderNotAvailableError)

    async def _refresh(self, topic: str, pauses: Iterator[float], *, or_else: type[KafkaError]) -> None:
        """Pause, then ask the brokers about the topic anew; raises `or_else` when it has been asked often enough."""
        pause = next(pauses, None)
        if pause is None:
            raise or_else
        await asyncio.sleep(pause)
        self.client._topics.add(topic)
        if not await self.client.force_metadata_update():
            raise KafkaConnectionError

    async def recover(self) -> None:
        """Pause after one of the errors that pass, and ask the brokers who leads what now."""
        await asyncio.sleep(RETRY_PAUSE.total_seconds())
        await self.client.force_metadata_update()

    def encode(self, place: Place, batch: RecordBatch) -> bytearray:
        """The batch as it is sent, each time it is: its sequence is the next one of this partition."""
        sequence = self._sequences[place]
        self._sequences[place] = (sequence + batch.count) % _SEQUENCES
        return batch.encode(self._id, self._epoch, sequence)

    async def send(self, node: int, batches: Mapping[Place, bytearray]) -> dict[Place, int | KafkaError]:
        """Send these batches to the broker that leads their partitions: of each, the offset of its first record, or the
        broker's error.

        Raises errors of PASSING for them all, and ProducerClosed. Cancelled, it leaves nothing that is sent later.
        """
        if self._closed:
            raise ProducerClosed
        topics: defaultdict[str, list[tuple[int, bytearray]]] = defaultdict(list)
        for (topic, partition), encoded in batches.items():
            topics[topic].append((partition, encoded))
        if not await self.client.ready(node):
            raise NodeNotReadyError
        connection = self.client._conns[node, ConnectionGroup.DEFAULT]
        answering = connection.send(ProduceRequest(None, _ALL_IN_SYNC, self._timeout_ms, [*topics.items()]))
        try:
            await failpoints.reach("relay.after_send")
            answer = await answering
        except TimeoutError as error:
            connection.close()  # whoever is silent is called anew
            raise RequestTimedOutError from error
        finally:
            answering.close()
        return {
            (topic, partition): for_code(code)() if code else offset
            for topic, partitions in answer.topics
            for partition, code, offset, *_ in partitions
        }


async def start(settings: KafkaSettings) -> Producer:
    """A producer that reached a broker. Raises BrokerUnavailable, and leaves nothing running then."""
    producer = Producer(settings)
    try:
        async with asyncio.timeout(_START.total_seconds()):
            await producer.start()
    except BaseException as error:
        await abandon(producer)
        if isinstance(error, KafkaError | OSError | TimeoutError):
            raise BrokerUnavailable(f"no broker of {settings.kafka_bootstrap_servers} answers") from error
        raise
    return producer


async def abandon(producer: Producer) -> None:
    """Get rid of a producer without flushing. When this returns, this process sends nothing more for it.

    Whoever waits for an answer is told that none will come. Bytes that the kernel already has may still arrive: the
    outcome of a batch in flight stays unknown.
    """
    producer._closed = True
    for connection in list(producer.client._conns.values()):
        for *_, answer in connection._requests:  # asyncio complains of an error that nobody reads
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if connection._writer is not None:
            connection._writer.transport.abort()  # not close: nothing buffered may leave
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1):
            await producer.client.close()
