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
from typing import Any

from aiokafka import errors as kafka

from app import failpoints, log
from app.settings import KafkaSettings
from relay import producer as producers
from relay.outcomes import BatchRefused, Delivered, Outcome, OwedMessage, Refused, TopicUnavailable, Unknown, Unsent
from relay.partitioner import partition_of
from relay.records import BATCH_BYTES, pack

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


# What publishing may raise and turns into outcomes.
_ERRORS = (kafka.KafkaError, OSError, TimeoutError, AssertionError)


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
        attempt = _Attempt(self._producer, self._settings.kafka_compression, singly, next(self._turn))
        outcomes = await attempt.run(messages, deadline)
        if not all(isinstance(outcome, Delivered) for outcome in outcomes):
            await self.close()
        return outcomes


@dataclass(slots=True, eq=False)
class _Part:
    """What goes to one partition (of a topic whose partitions are unknown: None), and how far it has come: those from
    `start` to `stop` are on their way.
    """

    topic: str
    partition: int | None
    messages: list[OwedMessage]
    start: int = 0
    stop: int = 0


class _Attempt:
    """One `publish`: partitions side by side, each in order, a batch after the answer to the one before it.

    One coroutine sees to all of them: tasks and time-outs of their own were a large part of what a small round costs.
    """

    def __init__(self, producer: producers.Producer, compression: str, singly: Collection[str], turn: int) -> None:
        self._producer = producer
        self._compression = compression
        self._singly = singly
        self._turn = turn
        self._parts: list[_Part] = []
        self._waits: dict[asyncio.Future[Any], _Part] = {}
        """Answers to batches; for a part with none on its way, what is missing in the metadata."""
        self._outcomes: list[Outcome] = []

    async def run(self, messages: Sequence[OwedMessage], deadline: timedelta) -> list[Outcome]:
        """Send them all, and wait for the answers until the deadline."""
        by_topic: defaultdict[str, list[OwedMessage]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic].append(message)
        self._parts += [_Part(topic, None, owed) for topic, owed in by_topic.items()]
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                for part in self._parts[:]:
                    await self._go_on(part)
                while self._waits:
                    done, _ = await asyncio.wait(self._waits, return_when=asyncio.FIRST_COMPLETED)
                    for future in done:
                        await self._answered(future, self._waits.pop(future))
        except TimeoutError as error:
            for part in self._parts:
                self._failed(part, error)
        finally:
            for future in self._waits:  # or asyncio complains of an answer that nobody reads
                if not future.cancel() and not future.cancelled():
                    future.exception()
        return self._outcomes

    async def _go_on(self, part: _Part) -> None:
        """Send the next batch, if there is one, or wait for what is missing to do so."""
        try:
            if part.partition is None:
                await self._divide(part)
            elif part.start < len(part.messages):
                await self._send(part, part.partition)
        except _ERRORS as error:
            self._failed(part, error)

    async def _divide(self, part: _Part) -> None:
        """Give each partition of a topic its part. Messages without a key go together, to one that `turn` changes."""
        producer = self._producer
        partitions = producer.partitions(part.topic)
        if partitions is None:
            self._waits[asyncio.create_task(producer.await_partitions(part.topic))] = part
            return
        self._parts.remove(part)
        by_partition: defaultdict[int, list[OwedMessage]] = defaultdict(list)
        for message in part.messages:
            key = message.key
            number = self._turn % partitions if key is None else partition_of(key, partitions)
            by_partition[number].append(message)
        parts = [_Part(part.topic, number, owed) for number, owed in by_partition.items()]
        self._parts += parts
        for each in parts:
            await self._go_on(each)

    async def _send(self, part: _Part, partition: int) -> None:
        """Hand the next batch to the producer."""
        topic, messages, producer = part.topic, part.messages, self._producer
        if not producer.has_leader(topic, partition):
            self._waits[asyncio.create_task(producer.await_leader(topic, partition))] = part
            return
        stop = part.start + 1 if topic in self._singly else len(messages)
        records, part.stop = pack(
            messages,
            part.start,
            stop,
            timestamp=time.time_ns() // 1_000_000,
            compression=self._compression,
            size=BATCH_BYTES,
        )
        await failpoints.reach("relay.before_send")
        self._waits[await producer.send_batch(records, topic, partition=partition)] = part
        await failpoints.reach("relay.after_send")

    async def _answered(self, future: asyncio.Future[Any], part: _Part) -> None:
        try:
            metadata = future.result()
        except _ERRORS as error:
            self._failed(part, error)
            return
        batch = part.messages[part.start : part.stop]
        if batch and part.partition is not None:
            if metadata.offset < 0:  # it was stored before, but where the broker no longer knows: a receipt would lie
                self._failed(part, kafka.DuplicateSequenceNumber())
                return
            self._outcomes.append(Delivered(batch, part.partition, metadata.offset))
            part.start = part.stop
        await self._go_on(part)

    def _failed(self, part: _Part, error: BaseException) -> None:
        """The batch on its way, or with none the whole part, has this end; what comes after it is not sent."""
        messages, start, stop = part.messages, part.start, part.stop
        if start == len(messages):
            return
        if stop == start:
            stop = len(messages)
        self._outcomes.append(_outcome(error, part.topic, messages[start:stop]))
        if stop < len(messages):
            self._outcomes.append(Unsent(messages[stop:]))
        part.start = part.stop = len(messages)
