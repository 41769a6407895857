"""What an audit must remember, and what memory is not to hold: a private file of SQLite's, gone when it is closed."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -32768;
    CREATE TABLE seen (message_id BLOB, partition INTEGER, first INTEGER, PRIMARY KEY (message_id, partition))
        WITHOUT ROWID;
    CREATE TABLE unknown (message_id TEXT, partition INTEGER, "offset" INTEGER, timestamp INTEGER);
    CREATE TABLE keys (hash INTEGER PRIMARY KEY, last INTEGER);
"""
_HALF, _WHOLE = 1 << 63, 1 << 64


class Unknown(NamedTuple):
    """A record with our headers that nobody knew when it was read; `timestamp` in milliseconds."""

    message_id: str
    partition: int
    offset: int
    timestamp: int


class Scratch:
    """The scratch of one topic."""

    def __init__(self) -> None:
        # Without a name it lives in SQLite's cache, and on disk only as far as it outgrows that.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._database.close()

    def see(self, message_id: bytes, partition: int, offset: int) -> bool:
        """Note where a record without a receipt of its own lies. Was one of this message seen before, anywhere?"""
        before = self._database.execute("SELECT 1 FROM seen WHERE message_id = ? LIMIT 1", (message_id,)).fetchone()
        self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (message_id, partition, offset))
        return before is not None

    def first(self, message_id: bytes, partition: int) -> int | None:
        """The first place in the partition that was noted for this message."""
        row = self._database.execute(
            "SELECT first FROM seen WHERE message_id = ? AND partition = ?", (message_id, partition)
        ).fetchone()
        return None if row is None else int(row[0])

    def keep(self, unknown: Unknown) -> None:
        """Remember a record for another look."""
        self._database.execute("INSERT INTO unknown VALUES (?, ?, ?, ?)", unknown)

    def forget_unknown(self, before: int) -> tuple[int, int]:
        """Drop those with an earlier timestamp; how many these were, and how many are left."""
        dropped = self._database.execute("DELETE FROM unknown WHERE timestamp < ?", (before,)).rowcount
        (left,) = self._database.execute("SELECT count(*) FROM unknown").fetchone()
        return dropped, left

    def unknown(self, most: int) -> Iterator[list[Unknown]]:
        """What was kept, up to `most` at a time."""
        cursor = self._database.execute("SELECT * FROM unknown ORDER BY rowid")
        while rows := cursor.fetchmany(most):
            yield [Unknown(*row) for row in rows]

    def store_keys(self, last: Iterable[tuple[int, int]]) -> None:
        """Put away the last ids of these keys' hashes."""
        self._database.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?)", ((_signed(h), n) for h, n in last))

    def load_keys(self, hashes: Iterable[int]) -> dict[int, int]:
        """What was put away of these."""
        rows = self._database.execute(
            "SELECT hash, last FROM json_each(?) JOIN keys ON hash = value", (json.dumps(list(map(_signed, hashes))),)
        )
        return {number % _WHOLE: last for number, last in rows}

    def forget_keys(self) -> None:
        """The next partition has other keys."""
        self._database.execute("DELETE FROM keys")


def _signed(number: int) -> int:
    return number - _WHOLE if number >= _HALF else number
