"""Reading partitions as they lie in the log: raw batches, without a group. For whoever checks, not for consumers.

It asks only for what is there: naming a topic in a request for metadata could make it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from app import lifecycle
from app.broker import connection_options
from app.errors import BrokerUnavailable, OutboxError
from app.kafka.chunks import PORTION, Chunk, chunks, present
from app.kafka.records import CorruptBatch, records
from app.kafka.skim import Skimmed, Unpacked, skim, unpack
from app.kafka.walk import Bounds, walk
from app.settings import KafkaSettings

_START = timedelta(seconds=15)
_PATIENCE = timedelta(seconds=30)
_PAUSE = timedelta(seconds=0.1)
_WAIT_MS = 100
_FETCH_BYTES = 2_097_152
"""Of one answer, compressed; two are held at a time."""
_UNCOMMITTED, _COMMITTED = 0, 1
"""Isolation levels."""
_EARLIEST, _LATEST = -2, -1
_NEW_LAYOUT = 11
"""From this version on, an answer's aborted transactions are not the field before the records."""


class Log:
    """The logs of a cluster's topics, from `async with` on. All calls raise BrokerUnavailable."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client = AIOKafkaClient(**connection_options(settings), client_id="outbox-verify")

    async def __aenter__(self) -> Self:
        try:
            await lifecycle.within(_START, self._client.bootstrap())
            if not await lifecycle.within(_START, self._refresh()):
                raise LeaderNotAvailableError
        except (KafkaError, OSError, TimeoutError) as error:
            await self._client.close()
            raise self._unavailable() from error
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def _refresh(self) -> bool:
        return bool(await self._client.force_metadata_update())

    async def partitions(self, topic: str) -> list[int]:
        """The numbers of a topic's partitions; none when there is no such topic.

        Raises OutboxError when there may be one that this login may not see.
        """
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        while time.monotonic() < deadline:
            if numbers := self._client.cluster.partitions_for_topic(topic):
                return sorted(numbers)
            # Among all topics one that is not ready, or not for us, is left out: so this one is asked for by its name.
            request = MetadataRequest([topic], allow_auto_topic_creation=False)
            try:
                response = await self._client.send(self._client.get_random_node(), request)
            except (KafkaError, OSError, TimeoutError):
                response = None
            if response is not None:
                (code, *_), *_ = response.topics
                if for_code(code) is UnknownTopicOrPartitionError:
                    return []
                if for_code(code) is TopicAuthorizationFailedError:
                    raise OutboxError(f"this login to Kafka may not see the topic {topic}")
            await self._refresh()
            await asyncio.sleep(_PAUSE.total_seconds())
        raise self._unavailable()

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """The log, now; what belongs to a transaction that has not ended included."""
        return Bounds(await self._beginning(topic, partition), await self.end(topic, partition))

    async def _beginning(self, topic: str, partition: int) -> int:
        return await self._offset(topic, partition, _EARLIEST)

    async def end(self, topic: str, partition: int) -> int:
        """The offset that the next record gets."""
        return await self._offset(topic, partition, _LATEST)

    async def committed_end(self, topic: str, partition: int) -> int:
        """The offset up to which all transactions have ended."""
        return await self._offset(topic, partition, _LATEST, isolation=_COMMITTED)

    async def offset_at(self, topic: str, partition: int, bounds: Bounds, moment: datetime) -> int:
        """The first offset of a batch with a record of `moment` or later; the end when there is none.

        By halving, because not every broker can search by time. Where clocks of producers differ, times in a log do
        not quite rise, and so this is not quite exact.
        """
        low, high = bounds
        wanted = moment.timestamp() * 1000
        while low < high:
            middle = (low + high) // 2
            batches, following = await self._whole(topic, partition, middle, size=1, isolation=_UNCOMMITTED)
            if batches and batches[0][0].max_timestamp < wanted:
                low = max(batches[0][0].next_offset, middle + 1)
            elif batches or following >= high:
                high = middle
            else:  # nothing but markers
                low = following
        return low

    async def read(self, topic: str, partition: int, bounds: Bounds, *, committed: bool) -> AsyncGenerator[Chunk, None]:
        """The records inside `bounds`, which are inside the log's; if `committed`, without what was aborted.

        Then the bounds must not reach further than `committed_end`. Raises CorruptBatch, after all that is before it.
        """
        fetch = partial(self._whole, topic, isolation=_COMMITTED if committed else _UNCOMMITTED)
        async for answer in walk({partition: bounds}, fetch, partial(self._beginning, topic)):
            for chunk in chunks(answer.found, answer.first, answer.end):
                yield chunk

    async def skim(self, topic: str, wanted: Mapping[int, Bounds]) -> AsyncIterator[Skimmed]:
        """All records inside these bounds of partitions, one partition after the other; aborted records, too.

        At least one chunk of each partition. Three times as fast as `read`, without what the auditor does not need.
        Nobody's open transaction holds this up: the end of the log is where the relays have got to.
        """
        async for answer in walk(wanted, partial(self._unpacked, topic), partial(self._beginning, topic)):
            skimmed, begin = Skimmed(answer.partition, answer.first, answer.end, gone=answer.gone), answer.first
            for batch in answer.found:
                try:
                    skim(batch, skimmed)
                except IndexError as error:
                    raise CorruptBatch(topic, answer.partition, batch.following) from error
                if len(skimmed.offsets) >= PORTION and batch.following < answer.end:
                    skimmed.cut(begin, batch.following)
                    yield skimmed
                    begin = batch.following
                    skimmed = Skimmed(answer.partition, begin, answer.end)
            skimmed.cut(begin, answer.end)
            yield skimmed

    async def record(self, topic: str, partition: int, offset: int) -> Any | None:
        """The record at this place; None when there is none, any more."""
        try:
            batches, _ = await self._whole(topic, partition, offset, size=1, isolation=_UNCOMMITTED)
        except OffsetOutOfRangeError:
            return None
        return next((record for _, found in batches[:1] for record in found if record.offset == offset), None)

    async def _whole(
        self, topic: str, partition: int, offset: int, *, size: int = _FETCH_BYTES, isolation: int
    ) -> tuple[list[tuple[Any, Sequence[Any]]], int]:
        """Batches of the client library, with their records; up to a corrupt one, which must not hide those before."""
        found, following = await self._fetch(topic, partition, offset, size=size, isolation=isolation)
        whole: list[tuple[Any, Sequence[Any]]] = []
        for batch, raw in found:
            try:
                whole.append((batch, _records(self._checked(batch, topic, partition), raw, topic, partition)))
            except CorruptBatch:
                if not whole:
                    raise
                return whole, whole[-1][0].next_offset
        return whole, following

    async def _unpacked(self, topic: str, partition: int, offset: int) -> tuple[list[Unpacked], int]:
        """Batches for `skim`."""
        found, following = await self._fetch(topic, partition, offset, size=_FETCH_BYTES, isolation=_UNCOMMITTED)

        def work() -> list[Unpacked]:
            return [unpack(self._checked(batch, topic, partition), raw) for batch, raw in found]

        # Decompressing holds up nobody there.
        return await asyncio.to_thread(work), following

    def _checked(self, batch: Any, topic: str, partition: int) -> Any:
        if self._settings.kafka_check_crcs and not batch.validate_crc():
            raise CorruptBatch(topic, partition, batch.next_offset)
        return batch

    async def _fetch(
        self, topic: str, partition: int, offset: int, *, size: int, isolation: int
    ) -> tuple[list[tuple[Any, bytes]], int]:
        """Batches from this offset on, with their bytes, and the offset after the last.

        Raises OffsetOutOfRangeError.
        """
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        request = FetchRequest(_WAIT_MS, 1, size, isolation, [(topic, [(partition, offset, size)])])
        while time.monotonic() < deadline:
            version, fields = await self._ask(topic, partition, request)
            aborted = fields[3] if version >= _NEW_LAYOUT else fields[-2]
            batches, following = present(fields[-1], aborted)
            if following > offset:
                return batches, following
        raise self._unavailable()

    async def _offset(self, topic: str, partition: int, which: int, *, isolation: int = _UNCOMMITTED) -> int:
        request = OffsetRequest(-1, isolation, [(topic, [(partition, which)])])
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


def _records(batch: Any, raw: bytes, topic: str, partition: int) -> list[Any]:
    try:
        return records(batch, raw)
    except Exception as error:
        raise CorruptBatch(topic, partition, batch.next_offset) from error
