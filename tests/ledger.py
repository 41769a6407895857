"""Adds messages to the outbox for a test, and keeps a record of what was committed."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

_ADDED = """
    SELECT id, message_id, topic, key, outbox_headers(headers), payload, type FROM outbox_messages
    WHERE message_id = ANY($1) ORDER BY id
"""


# One writer at a time needs no locks of keys.
_INSERT = """
    INSERT INTO outbox_messages (lane, topic, key, payload, headers, type)
    SELECT coalesce(outbox_bucket(key) & 31, floor(random() * 32)), $1, key, payload, $4, 'test.happened'
    FROM unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY AS new (key, payload, position) ORDER BY position
    RETURNING id, message_id, topic, key, headers, payload, type
"""


class Added(NamedTuple):
    """A message whose transaction was committed. `headers` is flat: name, value, name, value, …"""

    id: int
    message_id: UUID
    topic: str
    key: bytes | None
    headers: list[bytes]
    payload: bytes | None
    type: str


async def added(connection: asyncpg.Connection, message_ids: Sequence[UUID]) -> list[Added]:
    """The messages as they were written. To be called in the transaction that adds them; later the relay has them."""
    rows = await connection.fetch(_ADDED, message_ids)
    assert len(rows) == len(message_ids)
    return [Added(*row) for row in rows]


class Ledger:
    """The only writer of a test's database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.messages: list[Added] = []
        self._turn = asyncio.Lock()

    async def add(self, topic: str, pairs: Iterable[tuple[bytes | None, bytes | None]]) -> list[Added]:
        """Add messages with these keys and payloads, in one transaction; what they became."""
        keys, payloads = zip(*pairs, strict=True)
        headers = [b"content-type", b"text/plain"]
        async with self._turn:
            added = [Added(*row) for row in await self.connection.fetch(_INSERT, topic, keys, payloads, headers)]
        self.messages += added
        return added

    async def fill(self, topic: str, *, messages: int, keys: int = 10, size: int = 20) -> list[Added]:
        """Add messages of `size` bytes, whose keys take turns."""
        return await self.add(
            topic, ((f"key-{n % keys}".encode(), f"{n}".encode().ljust(size, b".")) for n in range(messages))
        )
