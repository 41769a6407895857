"""Publishing to Kafka, and what its errors mean for a message, a topic, or the broker.

Batches are built here, one per partition and at most one on its way, and sent with `send_batch`: that costs a third
of aiokafka's `send()`. The classes of errors are ours, never the client library's `retriable` flag.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

from aiokafka import errors as kafka

from app import failpoints, log
from app.settings import KafkaSettings
from relay import producer as producers
from relay.outcomes import BatchRefused, Delivered, Outcome, OwedMessage, Refused, TopicUnavailable, Unknown, Unsent
from relay.partitioner import partition_of
from relay.records import BATCH_BYTES, RecordBatch, pack

logger = log.get(__name__)

# Of a record sent alone: it can never be sent.
_MESSAGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError, producers.InvalidRecordError)
# The broker answers, but the producer's sequence on this partition is broken; another producer mends it.
_SEQUENCE = (
    kafka.OutOfOrderSequenceNumber,
    kafka.DuplicateSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.ProducerFenced,
)
# No answer: the broker is gone or silent, or a partition of it is.
_SILENCE = (
    kafka.KafkaTimeoutError,
    kafka.KafkaConnectionError,
    kafka.NodeNotReadyError,
    kafka.RequestTimedOutError,
    kafka.BrokerNotAvailableError,
    kafka.ProducerClosed,
    OSError,
    TimeoutError,
    AssertionError,  # aiokafka's way to say that the topic lost this partition meanwhile
)


def _reason(error: BaseException) -> str:
    """Kafka's name of an error (`MESSAGE_TOO_LARGE`), else its class. Never its text."""
    if isinstance(error, kafka.MessageSizeTooLargeError):
        return "MESSAGE_TOO_LARGE"  # aiokafka still has the name that Kafka has dropped
    name = getattr(error, "message", None)
    return name if isinstance(name, str) and name else type(error).__name__


def _outcome(error: BaseException, topic: str, batch: list[OwedMessage]) -> Outcome:
    """The class of an error. Any answer that is not about a message or the sequence is about the topic."""
    reason = _reason(error)
    if isinstance(error, _MESSAGE):
        return Refused(batch[0], reason) if len(batch) == 1 else BatchRefused(batch, reason)
    if isinstance(error, _SEQUENCE):
        return Unknown(batch, reason, answered=True)
    if isinstance(error, _SILENCE):
        return Unknown(batch, reason)
    return TopicUnavailable(topic, batch, reason)


class KafkaPublisher:
    """The real `Publisher`: one idempotent producer, made when needed and abandoned after any error.

    A producer that had an error has used up sequence numbers that the broker never saw, and would be refused for ever
    on that partition; so it never gets a second chance.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: producers.Producer | None = None
        self._turn = count()

    async def open(self) -> None:
        """Start a producer unless there is one. Raises BrokerUnavailable."""
        if self._producer is None:
            self._producer = await producers.start(self._settings)

    async def close(self) -> None:
        """Abandon the producer: nothing is flushed, nothing is sent later."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producers.abandon(producer)

    async def publish(
        self, messages: Sequence[OwedMessage], *, singly: Collection[str], deadline: timedelta
    ) -> list[Outcome]:
        """See `relay.outcomes.Publisher`."""
        if self._producer is None:
            return [Unsent(messages)]
        by_topic: defaultdict[str, list[OwedMessage]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic].append(message)
        end = asyncio.get_running_loop().time() + deadline.total_seconds()
        attempt = _Attempt(self._producer, self._settings.kafka_compression, end)
        turn = next(self._turn)
        parts = await asyncio.gather(
            *(attempt.topic(topic, owed, singly=topic in singly, turn=turn) for topic, owed in by_topic.items())
        )
        outcomes = [outcome for part in parts for outcome in part]
        if not all(isinstance(outcome, Delivered) for outcome in outcomes):
            await self.close()
        return outcomes


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One `publish`: topics and partitions side by side, each partition in order. `end` is the loop's time."""

    producer: producers.Producer
    compression: str
    end: float

    async def topic(self, topic: str, messages: list[OwedMessage], *, singly: bool, turn: int) -> list[Outcome]:
        """Send one topic's messages. Those without a key go together, to a partition that changes with `turn`."""
        try:
            async with asyncio.timeout_at(self.end):
                partitions = await self.producer.partition_count(topic)
        except (kafka.KafkaError, OSError, TimeoutError) as error:
            return [_outcome(error, topic, messages)]
        by_partition: defaultdict[int, list[OwedMessage]] = defaultdict(list)
        for message in messages:
            key = message.key
            by_partition[turn % partitions if key is None else partition_of(key, partitions)].append(message)
        parts = await asyncio.gather(
            *(self._partition(topic, partition, part, singly=singly) for partition, part in by_partition.items())
        )
        return [outcome for part in parts for outcome in part]

    async def _partition(
        self, topic: str, partition: int, messages: list[OwedMessage], *, singly: bool
    ) -> list[Outcome]:
        """One batch after the other; each waits for the answer to the one before it."""
        outcomes: list[Outcome] = []
        start = 0
        while start < len(messages):
            records, stop = self._build(messages, start, singly=singly)
            outcomes.append(await self._send(records, topic, partition, messages[start:stop]))
            start = stop
            if not isinstance(outcomes[-1], Delivered):
                break
        if start < len(messages):
            outcomes.append(Unsent(messages[start:]))
        return outcomes

    def _build(self, messages: list[OwedMessage], start: int, *, singly: bool) -> tuple[RecordBatch, int]:
        """A batch of the messages from `start`, and the index after its last."""
        return pack(
            messages,
            start,
            start + 1 if singly else len(messages),
            timestamp=time.time_ns() // 1_000_000,
            compression=self.compression,
            size=BATCH_BYTES,
        )

    async def _send(self, records: RecordBatch, topic: str, partition: int, batch: list[OwedMessage]) -> Outcome:
        try:
            async with asyncio.timeout_at(self.end):
                await self.producer.await_leader(topic, partition)
                await failpoints.reach("relay.before_send")
                answer = await self.producer.send_batch(records, topic, partition=partition)
                try:
                    await failpoints.reach("relay.after_send")
                    metadata = await answer
                finally:
                    answer.cancel()  # or asyncio complains of an answer that comes when nobody waits any more
        except (kafka.KafkaError, OSError, TimeoutError, AssertionError) as error:
            return _outcome(error, topic, batch)
        if metadata.offset < 0:  # it was stored before, but the broker no longer knows where: a receipt would lie
            return Unknown(batch, kafka.DuplicateSequenceNumber.message, answered=True)
        return Delivered(batch, partition, metadata.offset)
