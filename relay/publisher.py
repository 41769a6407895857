"""Publishing to Kafka, and what its errors mean for a message, a topic, or the broker.

Batches are built here, one per partition and at most one on its way, and those for one broker go in one request. The
classes of errors are ours, never the client library's `retriable` flag.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Collection, Coroutine, Mapping, Sequence
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
)


# What publishing may raise and turns into outcomes.
_ERRORS = (kafka.KafkaError, OSError, TimeoutError)


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


_UNDIVIDED = -1


@dataclass(slots=True, eq=False)
class _Part:
    """What goes to one partition (or to a topic whose partitions are unknown: _UNDIVIDED), and how far it has come.

    Those from `start` to `stop` are on their way as the batch `encoded`, and `unsure` once one sending of it ended
    without an answer that tells.
    """

    topic: str
    messages: list[OwedMessage]
    partition: int = _UNDIVIDED
    start: int = 0
    stop: int = 0
    encoded: bytearray | None = None
    unsure: bool = False

    @property
    def place(self) -> producers.Place:
        return self.topic, self.partition


class _Attempt:
    """One `publish`: partitions side by side, each in order, a batch after the answer to the one before it.

    A step waits for a broker's answer or for metadata, and makes its parts ready for the next one. A step that is the
    only one, as mostly, is awaited without a task.
    """

    def __init__(self, producer: producers.Producer, compression: str, singly: Collection[str], turn: int) -> None:
        self._producer = producer
        self._compression = compression
        self._singly = singly
        self._turn = turn
        self._parts: list[_Part] = []
        self._ready: list[_Part] = []
        self._troubled: list[_Part] = []
        """Those whose batch had an error that passes."""
        self._asked: set[int] = set()
        """Brokers with a request on its way."""
        self._outcomes: list[Outcome] = []

    async def run(self, messages: Sequence[OwedMessage], deadline: timedelta) -> list[Outcome]:
        """Send them all, and wait for the answers until the deadline."""
        by_topic: defaultdict[str, list[OwedMessage]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic].append(message)
        self._ready = [_Part(topic, owed) for topic, owed in by_topic.items()]
        self._parts = self._ready[:]
        tasks: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                while (steps := self._steps()) or tasks:
                    if len(steps) == 1 and not tasks:
                        await steps[0]
                        continue
                    tasks |= {asyncio.create_task(step) for step in steps}
                    done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
        except TimeoutError as error:
            for part in self._parts:
                self._failed(part, error)
        finally:
            if tasks:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        return self._outcomes

    def _steps(self) -> list[Coroutine[Any, Any, None]]:
        """What can be done now. Parts stay ready while their broker still has to answer."""
        producer, steps = self._producer, list[Coroutine[Any, Any, None]]()
        by_leader: defaultdict[int, list[_Part]] = defaultdict(list)
        ready, self._ready = self._ready, []
        for part in ready:
            if part.partition == _UNDIVIDED:
                partitions = producer.partitions(part.topic)
                if partitions is None:
                    steps.append(self._until(producer.await_partitions(part.topic), [part]))
                else:
                    ready += self._divided(part, partitions)  # this loop comes to them
                continue
            leader = producer.leader(*part.place)
            if leader is None:
                steps.append(self._until(producer.await_leader(*part.place), [part]))
            elif leader in self._asked:
                self._ready.append(part)
            else:
                by_leader[leader].append(part)
        steps += [self._send(leader, parts) for leader, parts in by_leader.items()]
        if self._troubled:
            troubled, self._troubled = self._troubled, []
            steps.append(self._until(producer.recover(), troubled))
        return steps

    def _divided(self, part: _Part, partitions: int) -> list[_Part]:
        """Each partition of a topic gets its part. Messages without a key go together, to one that `turn` changes."""
        by_partition: defaultdict[int, list[OwedMessage]] = defaultdict(list)
        for message in part.messages:
            key = message.key
            number = self._turn % partitions if key is None else partition_of(key, partitions)
            by_partition[number].append(message)
        parts = [_Part(part.topic, owed, number) for number, owed in by_partition.items()]
        self._parts.remove(part)
        self._parts += parts
        return parts

    async def _until(self, something: Awaitable[None], parts: list[_Part]) -> None:
        """Wait for what these parts need to go on."""
        try:
            await something
        except _ERRORS as error:
            for part in parts:
                self._failed(part, error)
        else:
            self._ready += parts

    async def _send(self, leader: int, parts: list[_Part]) -> None:
        """Send the next batch of each of these parts to the broker that leads their partitions."""
        self._asked.add(leader)
        batches = {part.place: self._encoded(part) for part in parts}
        answers: Mapping[producers.Place, int | BaseException]
        try:
            await failpoints.reach("relay.before_send")
            answers = await self._producer.send(leader, batches)
        except _ERRORS as error:
            answers = dict.fromkeys(batches, error)
        finally:
            self._asked.discard(leader)
        for part in parts:
            self._answered(part, answers[part.place])

    def _encoded(self, part: _Part) -> bytearray:
        """The batch on its way, or else the next one."""
        if part.encoded is None:
            stop = part.start + 1 if part.topic in self._singly else len(part.messages)
            batch, part.stop = pack(
                part.messages,
                part.start,
                stop,
                timestamp=time.time_ns() // 1_000_000,
                compression=self._compression,
                size=BATCH_BYTES,
            )
            part.encoded = self._producer.encode(part.place, batch)
        return part.encoded

    def _answered(self, part: _Part, answer: int | BaseException) -> None:
        """The batch on its way has this first offset, or this error."""
        if isinstance(answer, producers.PASSING):
            part.unsure |= isinstance(answer, producers.UNSURE)
            self._troubled.append(part)
        elif isinstance(answer, BaseException):
            self._failed(part, answer)
        elif answer < 0:  # it was stored before, but where the broker no longer knows: a receipt would lie
            self._failed(part, kafka.DuplicateSequenceNumber())
        else:
            self._outcomes.append(Delivered(part.messages[part.start : part.stop], part.partition, answer))
            part.start, part.encoded, part.unsure = part.stop, None, False
            if part.start < len(part.messages):
                self._ready.append(part)

    def _failed(self, part: _Part, error: BaseException) -> None:
        """The batch on its way, or with none the whole part, has this end; what comes after it is not sent."""
        messages, start, stop = part.messages, part.start, part.stop
        if start == len(messages):
            return
        if stop == start:
            stop = len(messages)
        outcome = _outcome(error, part.topic, messages[start:stop])
        if part.unsure and isinstance(outcome, TopicUnavailable):  # now it is not taken, but it may have been before
            outcome = Unknown(outcome.messages, outcome.reason, answered=True)
        self._outcomes.append(outcome)
        if stop < len(messages):
            self._outcomes.append(Unsent(messages[stop:]))
        part.start = part.stop = len(messages)
