"""The receipts of a topic, by partition and offset, a few thousand at a time.

They come as PostgreSQL's binary COPY: rows of one width, which `struct` takes apart without an object for each column.
PostgreSQL sorts them, on its disk if need be, and waits while nobody takes them.
"""

import asyncio
import struct
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

import asyncpg

from app.kafka.log import Bounds

Receipt: TypeAlias = tuple[int, int, bytes, int, int]
"""Partition, offset, message id as text, fingerprint (unsigned), id of the message (-1 when it was not kept)."""

WHOLE = Bounds(-1, (1 << 63) - 1)
"""All offsets that there can be."""

_COPY = """
    SELECT r.partition, r."offset", r.message_id::text, r.fingerprint, coalesce(r.id, -1)
    FROM outbox_receipts AS r
    JOIN unnest($2::integer[], $3::bigint[], $4::bigint[]) AS wanted (partition, first, "end")
        ON r.partition = wanted.partition AND r."offset" >= wanted.first AND r."offset" < wanted."end"
    WHERE r.topic = $1
    ORDER BY r.partition, r."offset"
"""

# Number of columns, then each column's length before it.
_ROW = struct.Struct(">2x 4xi 4xq 4x36s 4xQ 4xq")
_HEADER = 19
_AHEAD = 8
"""Pieces that wait for being read; PostgreSQL's are of about 64 KiB at most."""
_AT_ONCE = 10_000
_ALL_DAY = timedelta(days=1)
"""The statement lasts as long as the topic is read."""

_Pieces: TypeAlias = "asyncio.Queue[bytes | Exception | None]"


class Receipts:
    """What is still to come of a topic's receipts. To be asked for partitions and offsets in rising order only."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._left = b""
        self._begun = False
        self._rows: list[Receipt] = []
        self._ended = False
        self.taken = 0
        """How many were handed out."""

    async def until(self, partition: int, end: int, *, most: int | None = None) -> list[Receipt]:
        """The next receipts before this place; with `most` about so many of them, and none only when there are none."""
        while not self._ended and (not self._rows or self._rows[-1][:2] < (partition, end)):
            if most is not None and len(self._rows) >= most:
                break
            await self._read()
        cut = bisect_left(self._rows, (partition, end))
        found, self._rows = self._rows[:cut], self._rows[cut:]
        self.taken += len(found)
        return found

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
        buffer = self._left + piece
        start = 0
        if not self._begun:
            if len(buffer) < _HEADER:
                self._left = buffer
                return
            start, self._begun = _HEADER, True
        whole = (len(buffer) - start) // _ROW.size * _ROW.size
        self._rows += _ROW.iter_unpack(memoryview(buffer)[start : start + whole])
        self._left = buffer[start + whole :]


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
