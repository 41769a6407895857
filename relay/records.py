"""Messages as a batch of Kafka's records, ready to be sent: version 2 of the format (KIP-98, KIP-82).

aiokafka's builder is given each header as a string and bytes, and spends most of its time on them. Here most of what
the records of a batch have in common is ready-made, and the rest is joined once (docs/decisions).
"""

import struct
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from uuid import UUID

from aiokafka import codec
from aiokafka.record.util import calc_crc32c

from app.outbox.headers import LENGTHS, header, sized, zigzag
from relay.outcomes import OwedMessage

_Compress = Callable[[bytes], bytes]

# By the setting's name: the number in a batch's attributes, and how its records are compressed. Of zstd level 1: at 3,
# which aiokafka takes, batches are as small, and take twice as long or more.
_CODECS: dict[str, tuple[int, _Compress | None]] = {
    "none": (0, None),
    "zstd": (4, lambda records: codec.zstd_encode(records, level=1)),
}

_WORTH_COMPRESSING = 1024
"""Bytes of records. A broker decompresses each batch to check it, which takes longer than a few bytes on the wire."""

# base offset, length | partition leader's epoch, version, checksum | attributes, last offset, first and last timestamp,
# producer's id, epoch and sequence, number of records. The length counts what comes after it, the checksum too.
_PLACE, _GUARD, _CONTENT = struct.Struct(">qi"), struct.Struct(">ibI"), struct.Struct(">hiqqqhii")
_VERSION, _NO_EPOCH = 2, -1

BATCH_BYTES = 262_144
"""Bytes of one batch. Below 16 KiB throughput halves; twice as much gains nothing."""
_BEFORE_CONTENT = _PLACE.size + _GUARD.size
OVERHEAD = _BEFORE_CONTENT + _CONTENT.size
"""Bytes of a batch that are not its records."""

_NOTHING = zigzag(-1)
"""The length of a key or a value that is not there."""

# Of CloudEvents' headers (1.0, Kafka's binary mode), what is the same for all messages: all but the values, and of ids
# and times the length.
_SPECVERSION_AND_ID = header(b"ce_specversion", b"1.0") + sized(b"ce_id") + zigzag(len(str(UUID(int=0))))
_TIME = sized(b"ce_time") + zigzag(len("2026-01-02T03:04:05.678901Z"))
_FIRST = 4
"""Headers that are the relay's; the message's own follow."""


@lru_cache(maxsize=1000)  # types are few
def _type_and_time(name: str) -> bytes:
    return header(b"ce_type", name.encode()) + _TIME


@lru_cache(maxsize=1000)  # and so are names of headers; brokers take any bytes, but consumers only UTF-8 (KIP-82)
def _name(raw: bytes) -> bytes:
    return sized(raw.decode("utf-8", "replace").encode())


@lru_cache(maxsize=1000)  # messages that go together were often written together
def _second(seconds: int) -> bytes:
    """A second since 1970, as RFC 3339 writes it, and the point after it."""
    return f"{(datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()}.".encode()  # noqa: DTZ001 - UTC, and unsaid


class _AnyLengths:
    """The same as LENGTHS, for all of them, and slower."""

    def __getitem__(self, length: int) -> bytes:
        return zigzag(length)


def _record(position: int, message: OwedMessage, lengths: "list[bytes] | _AnyLengths") -> bytes:
    """One record, its length first. All records of a batch have its timestamp, so their distance from it is 0."""
    # Named one by one: `*_` would make a list of the last three for each message.
    _, _, message_id, _, key, headers, payload, kind, created_at, _, _, _ = message
    seconds, microseconds = divmod(created_at, 1_000_000)
    if len(headers) == 1:  # stored as they stand here
        ready = headers[0]
        count, own = ready[0] >> 1, ready[1:]
    else:
        parts = iter(headers)
        count = len(headers) // 2
        own = b"".join([_name(name) + lengths[len(value)] + value for name, value in zip(parts, parts, strict=True)])
    content = b"".join(
        (
            b"\x00\x00",  # no attributes, no distance
            lengths[position],
            _NOTHING if key is None else lengths[len(key)],
            key or b"",
            _NOTHING if payload is None else lengths[len(payload)],
            payload or b"",
            lengths[_FIRST + count],
            _SPECVERSION_AND_ID,
            message_id.encode(),
            _type_and_time(kind),
            _second(seconds),
            b"%06dZ" % microseconds,
            own,
        )
    )
    return lengths[len(content)] + content


class RecordBatch:
    """Records that go together to one partition."""

    def __init__(self, records: list[bytes], *, timestamp: int, compression: str) -> None:
        self._records = records
        self._timestamp = timestamp
        self._compression = compression

    @property
    def count(self) -> int:
        """How many records it has."""
        return len(self._records)

    def encode(self, producer_id: int, producer_epoch: int, sequence: int) -> bytearray:
        """The batch as it is sent. A broker knows a repeat by its producer and the sequence of its first record."""
        attributes, records = self._compressed()
        count, moment = self.count, self._timestamp
        # Joined once, and the fields before the records written into it: a batch is long, and copies are not free.
        built = bytearray().join((bytes(OVERHEAD), *records))
        _CONTENT.pack_into(
            built,
            _BEFORE_CONTENT,
            *(attributes, count - 1, moment, moment),
            *(producer_id, producer_epoch, sequence, count),
        )
        checksum = calc_crc32c(memoryview(built)[_BEFORE_CONTENT:])
        _PLACE.pack_into(built, 0, 0, len(built) - _PLACE.size)
        _GUARD.pack_into(built, _PLACE.size, _NO_EPOCH, _VERSION, checksum)
        return built

    def _compressed(self) -> tuple[int, list[bytes]]:
        """The batch's attributes, and its records, compressed if that is worth it and makes them smaller."""
        attributes, compress = _CODECS[self._compression]
        if compress is None:
            return attributes, self._records
        joined = b"".join(self._records)
        small = joined if len(joined) < _WORTH_COMPRESSING else compress(joined)
        return (attributes, [small]) if len(small) < len(joined) else (0, [joined])


def pack(
    messages: Sequence[OwedMessage], start: int, stop: int, *, timestamp: int, compression: str, size: int
) -> tuple[RecordBatch, int]:
    """A batch of the messages from `start`, to `stop` or until it has `size` bytes; and the index after its last.

    The first message is taken whatever its size is. `timestamp`: of all records, in milliseconds.
    """
    records: list[bytes] = []
    room = size - OVERHEAD
    for position, message in enumerate(islice(messages, start, stop)):
        try:
            record = _record(position, message, LENGTHS)
        except IndexError:  # something in it is longer than usual
            record = _record(position, message, _AnyLengths())
        room -= len(record)
        if room < 0 and records:
            break
        records.append(record)
    return RecordBatch(records, timestamp=timestamp, compression=compression), start + len(records)
