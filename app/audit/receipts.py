"""The receipts of a topic, by partition and offset, a few thousand at a time.

They come as PostgreSQL's binary COPY: rows of one width, which `struct` takes apart many at a time. They are handed out
in columns: a tuple for each would cost more, most of it in the garbage collector, than everything else here.
PostgreSQL sorts them, on its disk if need be, and waits while nobody takes them.
"""

import asyncio
import struct
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from app.kafka.walk import Bounds

WHOLE = Bounds(-1, (1 << 63) - 1)
"""All offsets that there can be."""

# Batches are taken apart by functions in the list of columns: in FROM, each batch would go through a store of its own.
# Sorted are the receipts, for batches may lie over each other, if they are false; but batches first, because what is
# nearly sorted is sorted fast, and text last, because it is long.
_COPY = """
    SELECT partition, "offset", message_id::text, fingerprint, coalesce(id, -1) FROM (SELECT * FROM (
        SELECT b.partition, wanted.first, wanted."end",
            generate_series(b."offset", b."offset" + cardinality(b.ids) - 1) AS "offset",
            unnest(b.message_ids) AS message_id, unnest(b.fingerprints) AS fingerprint, unnest(b.ids) AS id
        FROM outbox_receipt_batches AS b
        JOIN unnest($2::integer[], $3::bigint[], $4::bigint[]) AS wanted (partition, first, "end")
            ON b.partition = wanted.partition AND b."offset" < wanted."end"
            AND (b."offset" >= wanted.first OR b."offset" + cardinality(b.ids) > wanted.first)
        WHERE b.topic = $1 ORDER BY b.partition, b."offset"
    ) AS apart WHERE "offset" >= first AND "offset" < "end" ORDER BY partition, "offset") AS sorted
    ORDER BY partition, "offset"
"""

# Number of columns, then each column's length before it.
_ROW = "2x 4xi 4xq 4x36s 4xQ 4xq"
_COLUMNS = 5
_ONE, _MANY = struct.Struct(f">{_ROW}"), struct.Struct(f">{_ROW * 64}")
_HEADER = 19
_AHEAD = 8
"""Pieces that wait for being read; PostgreSQL's are of about 64 KiB at most."""
_AT_ONCE = 10_000
_ALL_DAY = timedelta(days=1)
"""The statement lasts as long as the topic is read."""

_Pieces: TypeAlias = "asyncio.Queue[bytes | Exception | None]"


class Receipt(NamedTuple):
    """Where a record is, its message's id as text, fingerprint (unsigned), and number (-1 when it was not kept)."""

    offset: int
    message_id: bytes
    fingerprint: int
    number: int


@dataclass(frozen=True, slots=True)
class Receipted:
    """Receipts of a partition, by offset. One list for each thing; see `Receipt`."""

    offsets: list[int] = field(default_factory=list)
    message_ids: list[bytes] = field(default_factory=list)
    fingerprints: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Receipt]:
        return map(Receipt, self.offsets, self.message_ids, self.fingerprints, self.numbers)


class Receipts:
    """What is still to come of a topic's receipts. To be asked for partitions and offsets in rising order only."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._left = b""
        self._begun = False
        self._fields: list[Any] = []
        """Of rows, one after the other."""
        self._ended = False
        self.taken = 0
        """How many were handed out."""

    async def until(self, partition: int, end: int, *, most: int | None = None) -> Receipted:
        """The next receipts before this place; with `most` about so many of them, and none only when there are none."""
        while not self._ended and (not self._fields or self._place(-_COLUMNS) < (partition, end)):
            if most is not None and len(self._fields) >= most * _COLUMNS:
                break
            await self._read()
        places = range(0, len(self._fields), _COLUMNS)
        cut = bisect_left(places, (partition, end), key=self._place) * _COLUMNS
        fields, self._fields = self._fields[:cut], self._fields[cut:]
        self.taken += cut // _COLUMNS
        return Receipted(*(fields[column::_COLUMNS] for column in range(1, _COLUMNS)))

    def _place(self, position: int) -> tuple[int, int]:
        return self._fields[position], self._fields[position + 1]

    async def skip(self, partition: int, end: int) -> int:
        """Leave out the next receipts before this place; how many these were."""
        before = self.taken
        while await self.until(partition, end, most=_AT_ONCE):
            continue
        return self.taken - before

    async def _read(self) -> None:
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            self._ended = True
            return
        buffer, start = memoryview(self._left + piece), 0
        if not self._begun:
            if len(buffer) < _HEADER:
                self._left = bytes(buffer)
                return
            start, self._begun = _HEADER, True
        for rows in (_MANY, _ONE):
            whole = start + (len(buffer) - start) // rows.size * rows.size
            for fields in rows.iter_unpack(buffer[start:whole]):
                self._fields += fields
            start = whole
        self._left = bytes(buffer[start:])


@asynccontextmanager
async def receipts(connection: asyncpg.Connection, topic: str, wanted: Mapping[int, Bounds]) -> AsyncIterator[Receipts]:
    """The receipts of these partitions and offsets, as the connection's transaction sees them.

    Raises the driver's errors, in `until`, too.
    """
    pieces: _Pieces = asyncio.Queue(_AHEAD)

    async def copy() -> None:
        end: Exception | None = None
        try:
            await connection.copy_from_query(
                _COPY,
                topic,
                list(wanted),
                [bounds.first for bounds in wanted.values()],
                [bounds.end for bounds in wanted.values()],
                output=pieces.put,
                format="binary",
                timeout=_ALL_DAY.total_seconds(),
            )
        except Exception as error:  # noqa: BLE001 - whoever reads gets it
            end = error
        await pieces.put(end)

    copying = asyncio.create_task(copy())
    try:
        yield Receipts(pieces)
    finally:
        copying.cancel()
        await asyncio.wait({copying})
