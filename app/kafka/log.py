"""Reading partitions as they lie in the log: raw batches, without a group. For whoever checks, not for consumers.

The client library's consumer spends half of its time on making an object with thirteen fields of each record; here
records stay as its parser hands them over. It asks only for what is there: naming a topic in a request for metadata
could make it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import CorruptRecordException, KafkaError, LeaderNotAvailableError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

from app import lifecycle
from app.broker import connection_options
from app.errors import BrokerUnavailable, OutboxError
from app.settings import KafkaSettings

_START = timedelta(seconds=15)
_PATIENCE = timedelta(seconds=30)
_PAUSE = timedelta(seconds=0.1)
_WAIT_MS = 100
_FETCH_BYTES = 2_097_152
"""Of one answer, compressed; two are held at a time."""
_CHUNK = 4096
"""Records, about: a batch is never cut."""
_READ_COMMITTED = 1
_EARLIEST, _LATEST = -2, -1
_NEW_LAYOUT = 11
"""From this version on, an answer's aborted transactions are not the field before the records."""


class Bounds(NamedTuple):
    """The present log: the first offset, and the one after the last."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """All records with offsets from `first` up to `end`, by offset; there are none but these.

    `gone`: the log no longer begins before `end`. Records are as the client's parser has them: `offset`, `timestamp`
    (milliseconds), `key`, `value`, `headers`.
    """

    records: Sequence[Any]
    first: int
    end: int
    gone: bool = False


class Log:
    """The logs of a cluster's topics, from `async with` on. All calls raise BrokerUnavailable."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client = AIOKafkaClient(**connection_options(settings), client_id="outbox-verify")

    async def __aenter__(self) -> Self:
        try:
            await lifecycle.within(_START, self._client.bootstrap())
            await self._client.force_metadata_update()
        except (KafkaError, OSError, TimeoutError) as error:
            await self._client.close()
            raise self._unavailable() from error
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._client.close()

    def partitions(self, topic: str) -> list[int]:
        """The numbers of a topic's partitions; none when there is no such topic."""
        return sorted(self._client.cluster.partitions_for_topic(topic) or ())

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """The log as far as it is committed, now."""
        return Bounds(await self._offset(topic, partition, _EARLIEST), await self._offset(topic, partition, _LATEST))

    async def offset_at(self, topic: str, partition: int, bounds: Bounds, moment: datetime) -> int:
        """The first offset of a batch with a record of `moment` or later; the end when there is none.

        By halving, because not every broker can search by time. Where clocks of producers differ, times in a log do
        not quite rise, and so this is not quite exact.
        """
        low, high = bounds
        wanted = moment.timestamp() * 1000
        while low < high:
            middle = (low + high) // 2
            batches, _ = await self._fetch(topic, partition, middle, size=1)
            if not batches or batches[0].max_timestamp >= wanted:
                high = middle
            else:
                low = max(batches[0].next_offset, middle + 1)
        return low

    async def read(self, topic: str, partition: int, first: int, end: int) -> AsyncIterator[Chunk]:
        """The records from `first` up to `end`, which is at most the log's end. The next fetch runs ahead."""
        position = first
        fetching = self._start(topic, partition, position) if position < end else None
        try:
            while fetching is not None:
                try:
                    batches, following = await fetching
                except OffsetOutOfRangeError:
                    fetching, gone = None, Chunk((), position, end)
                    beginning = (await self.bounds(topic, partition)).first
                    if position < beginning:
                        gone = Chunk((), position, min(end, beginning), gone=True)
                    yield gone
                    position = gone.end
                    fetching = self._start(topic, partition, position) if position < end else None
                    continue
                fetching = self._start(topic, partition, following) if following < end else None
                for chunk in _chunks(batches, position, min(following, end), check=self._settings.kafka_check_crcs):
                    yield chunk
                position = following
        finally:
            if fetching is not None:
                fetching.cancel()

    async def record(self, topic: str, partition: int, offset: int) -> Any | None:
        """The record at this place; None when there is none, any more."""
        try:
            batches, _ = await self._fetch(topic, partition, offset, size=1)
        except OffsetOutOfRangeError:
            return None
        return next((record for batch in batches[:1] for record in batch if record.offset == offset), None)

    def _start(self, topic: str, partition: int, offset: int) -> "asyncio.Task[tuple[list[Any], int]]":
        return asyncio.create_task(self._fetch(topic, partition, offset, size=_FETCH_BYTES))

    async def _fetch(self, topic: str, partition: int, offset: int, *, size: int) -> tuple[list[Any], int]:
        """Batches from this offset on, without what was aborted, and the offset after the last. There is one.

        Raises OffsetOutOfRangeError.
        """
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        request = FetchRequest(_WAIT_MS, 1, size, _READ_COMMITTED, [(topic, [(partition, offset, size)])])
        while time.monotonic() < deadline:
            version, fields = await self._ask(topic, partition, request)
            aborted = fields[3] if version >= _NEW_LAYOUT else fields[-2]
            batches, following = _batches(fields[-1], aborted)
            if following > offset:
                return batches, following
        raise self._unavailable()

    async def _offset(self, topic: str, partition: int, which: int) -> int:
        request = OffsetRequest(-1, _READ_COMMITTED, [(topic, [(partition, which)])])
        _, fields = await self._ask(topic, partition, request)
        return int(fields[-1])

    async def _ask(self, topic: str, partition: int, request: Any) -> tuple[int, Sequence[Any]]:
        """What the leader answers about this partition, with the version it answers in; asked until it does."""
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        place = TopicPartition(topic, partition)
        while True:
            try:
                leader = self._client.cluster.leader_for_partition(place)
                if leader is None or leader < 0:
                    raise LeaderNotAvailableError
                response = await self._client.send(leader, request)
                ((_, ((_, code, *fields),)),) = response.topics
                if code:
                    raise for_code(code)
                return response.API_VERSION, fields
            except OffsetOutOfRangeError:
                raise
            except (KafkaError, OSError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise self._unavailable() from error
            await self._client.force_metadata_update()
            await asyncio.sleep(_PAUSE.total_seconds())

    def _unavailable(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"no broker of {self._settings.kafka_bootstrap_servers} answers")


def _batches(raw: bytes, aborted: Sequence[tuple[int, int]] | None) -> tuple[list[Any], int]:
    """The batches of an answer, without markers and what they abort, and the offset after the last of them.

    `aborted`: pairs of a producer and the first offset of its transaction (KIP-98).
    """
    todo = sorted(aborted or (), key=lambda each: each[1], reverse=True)
    aborting: set[int] = set()
    found, following = [], -1
    records = MemoryRecords(raw)
    while records.has_next():
        batch: Any = records.next_batch()
        following = batch.next_offset
        if batch.producer_id is not None:
            while todo and todo[-1][1] <= batch.base_offset:
                aborting.add(todo.pop()[0])
        if batch.is_control_batch:
            if aborting and ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER:
                aborting.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in aborting):
            found.append(batch)
    return found, following


def _chunks(batches: Sequence[Any], first: int, end: int, *, check: bool) -> Iterator[Chunk]:
    """The records of these batches from `first` up to `end`, some at a time. Raises OutboxError for a broken batch."""
    records: list[Any] = []
    for batch in batches:
        try:
            if check and not batch.validate_crc():
                raise CorruptRecordException
            records += batch
        except CorruptRecordException as error:
            raise OutboxError(f"Kafka handed out a batch at offset {batch.next_offset - 1} that is corrupt") from error
        if len(records) >= _CHUNK and batch.next_offset < end:
            yield Chunk(_cut(records, first, end), first, batch.next_offset)
            records, first = [], batch.next_offset
    yield Chunk(_cut(records, first, end), first, end)


def _cut(records: list[Any], first: int, end: int) -> list[Any]:
    """A batch may begin before what was asked for, and end behind it."""
    if records and (records[0].offset < first or records[-1].offset >= end):
        return [record for record in records if first <= record.offset < end]
    return records
