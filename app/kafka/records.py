"""The records of a batch, also those that the client library cannot read.

Names of headers are UTF-8 (KIP-82), but neither brokers nor most producers check it. At a record with another name the
library raises, whenever it comes to it, so nobody would ever get past it: such a batch is taken apart here. The format
is version 2 of Kafka's record batch (KIP-98): records whose lengths are zigzag varints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import CorruptRecordException

from app.errors import OutboxError
from app.kafka.skim import unpack, varint

_LOG_APPEND_TIME = 1
_UNREADABLE = (UnicodeDecodeError, CorruptRecordException)
"""Which of them it is depends on whether the library's compiled parser is in use."""


class CorruptBatch(OutboxError):
    """A batch with a wrong checksum, or one that cannot be taken apart. What comes next begins at `following`."""

    def __init__(self, topic: str, partition: int, following: int) -> None:
        super().__init__(f"the batch of {topic} {partition} that ends before offset {following} is corrupt")
        self.following = following


@dataclass(frozen=True, slots=True)
class TakenApart:
    """A record, with the library's names. `unreadable`: the name of a header is not UTF-8 and has escapes here."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    unreadable: bool


def records(batch: Any, raw: bytes) -> list[Any]:
    """The records of a batch of the library's, whose bytes are `raw`.

    Raises ValueError or IndexError, or what the decompressor raises, where the bytes are not what they should be.
    """
    try:
        return list(batch)
    except _UNREADABLE:
        return list(_take_apart(batch, raw))


def is_unreadable(record: Any) -> bool:
    """Is this, out of `records`, one that the library cannot read?"""
    return isinstance(record, TakenApart) and record.unreadable


def _take_apart(batch: Any, raw: bytes) -> Iterator[TakenApart]:
    unpacked = unpack(batch, raw)
    data, position = unpacked.data, 0
    for _ in range(unpacked.count):
        length, position = _signed(data, position)
        end = position + length
        position += 1  # attributes: there are none yet
        distance, position = _signed(data, position)
        number, position = _signed(data, position)
        key, position = _bytes(data, position)
        value, position = _bytes(data, position)
        count, position = _signed(data, position)
        headers, unreadable = [], False
        for _ in range(count):
            name, position = _bytes(data, position)
            content, position = _bytes(data, position)
            text = (name or b"").decode("utf-8", "backslashreplace")
            unreadable = unreadable or text.encode() != name
            headers.append((text, content))
        if position != end:
            raise ValueError("a record is not as long as it says")
        own_time = batch.timestamp_type != _LOG_APPEND_TIME
        timestamp = batch.first_timestamp + distance if own_time else batch.max_timestamp
        yield TakenApart(unpacked.base + number, timestamp, key, value, tuple(headers), unreadable)


def _signed(data: bytes, position: int) -> tuple[int, int]:
    number, position = varint(data, position)
    return number >> 1 ^ -(number & 1), position


def _bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    """Bytes behind their length, or None where that is negative; and the position after them."""
    length, position = _signed(data, position)
    if length < 0:
        return None, position
    return data[position : position + length], position + length
