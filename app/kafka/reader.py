"""Reading a topic from its beginning, without a group: for people who look, nothing is committed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from app import log as app_log
from app.kafka.log import Log
from app.kafka.records import is_unreadable
from app.kafka.unreadable import HEADER_NOT_UTF8
from app.kafka.walk import Bounds
from app.settings import KafkaSettings

logger = app_log.get(__name__)

PAUSE = timedelta(seconds=0.05)
"""Between two looks at whether something came."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message as it lies in Kafka."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None

    @property
    def message_id(self) -> str | None:
        """The identity by which a repeat is recognised: the header `ce_id`."""
        return next((value.decode("utf-8", "replace") for name, value in self.headers if name == "ce_id"), None)


class Reader:
    """Topics, which exist, read on from where this reader is."""

    def __init__(self, log: Log, positions: dict[tuple[str, int], int]) -> None:
        self._log = log
        self._positions = positions

    @classmethod
    async def at(cls, log: Log, topics: Sequence[str], *, end: bool) -> Self:
        """At the beginnings of the topics, or at their present ends. Raises BrokerUnavailable."""
        places = [(topic, partition) for topic in topics for partition in await log.partitions(topic)]
        return cls(log, {place: (await log.bounds(*place))[end] for place in places})

    async def more(self) -> list[Record]:
        """What came since, but for records whose header names are not UTF-8. Raises BrokerUnavailable, CorruptBatch."""
        found = []
        for (topic, partition), position in self._positions.items():
            end = await self._log.end(topic, partition)
            async for chunk in self._log.read(topic, partition, Bounds(position, end), committed=False):
                for each in chunk.records:
                    if is_unreadable(each):
                        logger.warning(
                            "record.skipped",
                            topic=topic,
                            partition=partition,
                            offset=each.offset,
                            reason=HEADER_NOT_UTF8,
                        )
                    else:
                        found.append(Record(topic, partition, each.offset, each.key, tuple(each.headers), each.value))
            self._positions[topic, partition] = max(position, end)
        return found


async def read(
    settings: KafkaSettings,
    topics: Sequence[str],
    *,
    enough: Callable[[Sequence[Record]], bool],
    patience: timedelta,
) -> list[Record]:
    """All records of the topics, which exist, once they are `enough`; then on to their ends, so that repeats are seen.

    After `patience` those that came until then. What has a header whose name is not UTF-8 is left out, and told of.
    Raises BrokerUnavailable when no broker answers.
    """
    found: list[Record] = []
    try:
        async with asyncio.timeout(patience.total_seconds()), Log(settings) as log:
            reader = await Reader.at(log, topics, end=False)
            while (more := await reader.more()) or not enough(found):
                found += more
                await asyncio.sleep(0 if more else PAUSE.total_seconds())
    except TimeoutError:
        pass
    return found
