"""Reading on where the client library cannot: it raises at a record, and at the same one again whenever it is asked.

What it raises does not say where, and what it had taken of other partitions by then is gone. So all partitions are
looked at, from what is not done yet, without the library's consumer.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from app.kafka.input import Input
from app.kafka.log import Log
from app.kafka.records import CorruptBatch, is_unreadable
from app.kafka.walk import Bounds
from app.settings import Settings

HEADER_NOT_UTF8 = "HEADER_NOT_UTF8"
"""The flaw of an input, and so the reason of its dead letter."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What comes next in a partition; behind it, at `following`, others may come."""

    inputs: Sequence[Input]
    following: int


async def look(
    settings: Settings, positions: Mapping[TopicPartition, int]
) -> dict[TopicPartition, Portion | CorruptBatch]:
    """Partitions in which something is unreadable within the next batch of records, and what comes next there.

    A CorruptBatch only where nothing is before it. Raises BrokerUnavailable.
    """
    found = {}
    async with Log(settings) as log:
        for tp, position in positions.items():
            end = await log.committed_end(tp.topic, tp.partition)
            if position < end:
                portion = await _portion(log, tp, Bounds(position, end), settings.consumer_batch_records)
                if portion is not None:
                    found[tp] = portion
    return found


async def _portion(log: Log, tp: TopicPartition, bounds: Bounds, limit: int) -> Portion | CorruptBatch | None:
    """None where there is nothing that the library could not read."""
    records: list[Any] = []
    following, corrupt = bounds.first, None
    async with aclosing(log.read(tp.topic, tp.partition, bounds, committed=True)) as chunks:
        try:
            async for chunk in chunks:
                records += chunk.records
                following = chunk.end
                if len(records) >= limit:
                    break
        except CorruptBatch as error:
            corrupt = error
    if corrupt is not None and not records:
        return corrupt
    if len(records) > limit:
        records, corrupt = records[:limit], None
        following = records[-1].offset + 1
    if corrupt is None and not any(map(is_unreadable, records)):
        return None
    return Portion([_input(tp, record) for record in records], following)


def _input(tp: TopicPartition, record: Any) -> Input:
    flaw = HEADER_NOT_UTF8 if is_unreadable(record) else None
    headers = tuple(record.headers)
    return Input(tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value, headers, flaw)
