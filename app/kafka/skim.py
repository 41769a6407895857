"""Taking batches apart as far as an auditor needs it: places, keys, values, message ids.

The client library's parser makes a string and bytes of each header, which is most of its work; here the headers of a
record that come as the relay writes them are recognised by their bytes, and the rest is jumped over. The format is
version 2 of Kafka's record batch (KIP-98, KIP-82): a header, then records whose lengths are zigzag varints.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka import codec
from aiokafka.record.memory_records import MemoryRecords

_T = TypeVar("_T")

_HEADER = 61
"""Bytes before the records."""
_COUNT = slice(57, 61)
_MAGIC, _VERSION = 16, 2
_LENGTH, _AFTER_LENGTH = 8, 12
# The first headers, as the relay writes them; the message id follows.
_OURS = b"\x1cce_specversion\x061.0\x0ace_id\x48"
_BEFORE_ID, _ID = 1 + len(_OURS), 36
"""The number of headers is one byte, or these are not all ours."""
_DECODE: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}
_MORE = 128
"""A byte from here on is not the last of its varint."""
_NULL = 1
"""A length, zigzag: of a key, value or header that is not there."""


@dataclass(slots=True)
class Skimmed:
    """A partition's records from `first` up to `end`, by offset; there are none but these. One list for each thing.

    `timestamps` (milliseconds) are the latest of each record's batch. `message_ids` are None where a record has no
    `ce_id` beside a `ce_specversion`; of several the first counts. `gone`: the log no longer begins before `end`.
    """

    partition: int
    first: int
    end: int
    gone: bool = False
    offsets: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    message_ids: list[bytes | None] = field(default_factory=list)

    def cut(self, first: int, end: int) -> None:
        """Leave only offsets from `first` up to `end`: a batch may begin before what was asked for, and end behind."""
        self.first, self.end = first, end
        if self.offsets and (self.offsets[0] < first or self.offsets[-1] >= end):
            inside = [index for index, offset in enumerate(self.offsets) if first <= offset < end]
            self.offsets, self.timestamps = _picked(self.offsets, inside), _picked(self.timestamps, inside)
            self.keys, self.values = _picked(self.keys, inside), _picked(self.values, inside)
            self.message_ids = _picked(self.message_ids, inside)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A batch whose records are not compressed any more; `records` instead of `data` in formats before version 2."""

    base: int
    following: int
    timestamp: int
    count: int
    data: bytes
    records: Sequence[Any] = ()


def _picked(column: list[_T], indices: Sequence[int]) -> list[_T]:
    return [column[index] for index in indices]


def slices(raw: bytes) -> list[tuple[Any, bytes]]:
    """The batches of an answer, as the client library has them, each with its bytes."""
    found, position = [], 0
    records = MemoryRecords(raw)
    while records.has_next():
        after_length = position + _AFTER_LENGTH
        end = after_length + int.from_bytes(raw[position + _LENGTH : after_length], "big")
        found.append((records.next_batch(), raw[position:end]))
        position = end
    return found


def unpack(batch: Any, raw: bytes) -> Unpacked:
    """Decompress. Raises what the decompressor raises."""
    if raw[_MAGIC] < _VERSION:
        records = list(batch)
        timestamp = max((record.timestamp or 0 for record in records), default=0)
        return Unpacked(-1, batch.next_offset, timestamp, len(records), b"", records)
    data = _DECODE[batch.compression_type](raw[_HEADER:])
    count = int.from_bytes(raw[_COUNT], "big")
    return Unpacked(batch.base_offset, batch.next_offset, batch.max_timestamp, count, bytes(data))


def skim(batch: Unpacked, into: Skimmed) -> None:  # noqa: C901, PLR0912 - calls would double its time
    """Add the records of a batch. Raises IndexError where the bytes are not what they should be."""
    into.timestamps += [batch.timestamp] * batch.count
    if batch.records:
        into.offsets += [record.offset for record in batch.records]
        into.keys += [record.key for record in batch.records]
        into.values += [record.value for record in batch.records]
        into.message_ids += [None] * batch.count
        return
    into.offsets += _offsets(batch)
    data, position = batch.data, 0
    keys, values, message_ids = into.keys, into.values, into.message_ids
    for _ in range(batch.count):
        # Numbers of one and two bytes are nearly all there are: no call for them.
        number, high = data[position], data[position + 1]
        if number < _MORE:
            position += 1
        elif high < _MORE:
            number += (high - 1) << 7
            position += 2
        else:
            number, position = varint(data, position)
        following = position + (number >> 1)
        position += 1  # attributes: there are none yet
        while data[position] >= _MORE:  # the time, as a distance
            position += 1
        position += 1
        while data[position] >= _MORE:  # the offset, as a distance
            position += 1
        position += 1
        number, position = (data[position], position + 1) if data[position] < _MORE else varint(data, position)
        end = position + (number >> 1)
        keys.append(data[position:end] if number != _NULL else None)
        number = data[end]
        if number < _MORE:
            position = end + 1
        elif (high := data[end + 1]) < _MORE:
            number += (high - 1) << 7
            position = end + 2
        else:
            number, position = varint(data, end)
        end = position + (number >> 1)
        values.append(data[position:end] if number != _NULL else None)
        position = end + _BEFORE_ID
        if data[end + 1 : position] == _OURS:
            message_ids.append(data[position : position + _ID])
        else:
            message_ids.append(_message_id(data, end))
        position = following
    if position != len(data):
        raise IndexError("the records do not end where their batch does")


def _offsets(batch: Unpacked) -> Iterable[int]:
    """Offsets rise, so where there are as many as records none is missing; else something was compacted."""
    if batch.following - batch.base == batch.count:
        return range(batch.base, batch.following)
    data, position, found = batch.data, 0, []
    for _ in range(batch.count):
        number, position = varint(data, position)
        _, behind_time = varint(data, position + 1)
        distance, _ = varint(data, behind_time)
        found.append(batch.base + (distance >> 1))
        position += number >> 1
    return found


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The number there, still zigzag, and the position after it."""
    number = shift = 0
    while (byte := data[position]) >= _MORE:
        number |= (byte & 127) << shift
        shift += 7
        position += 1
    return number | byte << shift, position + 1


def _message_id(data: bytes, position: int) -> bytes | None:
    """Of a record whose headers, which begin there, do not begin with ours."""
    count, position = varint(data, position)
    found: dict[bytes, bytes] = {}
    for _ in range(count >> 1):
        size, position = varint(data, position)
        name = data[position : position + (size >> 1)]
        size, position = varint(data, position + (size >> 1))
        if size != _NULL:
            found.setdefault(name, data[position : position + (size >> 1)])
            position += size >> 1
    return found.get(b"ce_id") if b"ce_specversion" in found else None
