"""The Kafka producer: how one is made, and how one is got rid of at once, whatever the broker does.

`abandon` goes by the inside of aiokafka 0.14 (the version is pinned, and tests hold it to this): `stop()` hangs while a
batch cannot be delivered, and delivers that batch later, behind our back.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from datetime import timedelta

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    ProducerClosed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    kafka_errors,
)

from app.broker import connection_options
from app.errors import BrokerUnavailable
from app.settings import KafkaSettings

_START = timedelta(seconds=15)
_PATIENCE = (0.05, 0.15, 0.3, 0.5)
"""Pauses, in seconds, between looks at metadata that are not there yet: a second in all."""


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """INVALID_RECORD, which aiokafka does not know: the broker will never take this record."""

    errno = 87
    message = "INVALID_RECORD"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)


class Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
    """An idempotent producer that remembers its produce tasks.

    aiokafka keeps them in a local variable of its sender, where nobody can cancel them.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(
            **connection_options(settings),
            client_id="outbox-relay",
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
        )
        self.produce_tasks: set[asyncio.Task[None]] = set()
        send = self._sender._send_produce_req

        async def remembered(node_id: int, batches: object) -> None:
            task = asyncio.current_task()
            if task is not None:
                self.produce_tasks.add(task)
                task.add_done_callback(self.produce_tasks.discard)
            await send(node_id, batches)

        self._sender._send_produce_req = remembered

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

    def has_leader(self, topic: str, partition: int) -> bool:
        """Has the partition a leader, as far as is known?"""
        return self.client.cluster.leader_for_partition(TopicPartition(topic, partition)) not in (None, -1)

    async def await_leader(self, topic: str, partition: int) -> None:
        """Return when the partition has a leader; one that has none gets a second.

        Raises LeaderNotAvailableError, or KafkaConnectionError when no broker answers. aiokafka itself would wait for
        the whole request time-out.
        """
        pauses = iter(_PATIENCE)
        while not self.has_leader(topic, partition):
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

    Bytes that the kernel already has may still arrive: the outcome of a batch in flight stays unknown.
    """
    producer._closed = True  # refuse new batches
    producer._message_accumulator._closed = True
    tasks = [task for task in (producer._sender.sender_task, *producer.produce_tasks) if task is not None]
    for task in tasks:
        task.cancel()
    for connection in list(producer.client._conns.values()):  # abort, not close: nothing buffered may leave
        if connection._writer is not None:
            connection._writer.transport.abort()
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1):
            await producer.client.close()
    for _ in range(3):  # the first cancellation makes the sender wait for its own tasks
        running = [task for task in tasks if not task.done()]
        if running:
            await asyncio.wait(running, timeout=0.2)
        for task in running:
            task.cancel()
    _fail_waiters(producer)
    _mark_seen(tasks)


def _fail_waiters(producer: Producer) -> None:
    """Tell whoever waits for a batch that no answer will come."""
    accumulator = producer._message_accumulator
    batches = {batch for queue in accumulator._batches.values() for batch in queue} | accumulator._pending_batches
    accumulator._pending_batches |= batches  # or the callback of a re-queued batch fails in the loop
    accumulator.fail_all(ProducerClosed())
    _mark_seen(future for batch in batches for future in (batch.future, batch._drain_waiter))


def _mark_seen(futures: Iterable[asyncio.Future[None]]) -> None:
    """Read the exceptions, or asyncio logs them as never retrieved."""
    for future in futures:
        if future.done() and not future.cancelled():
            future.exception()
