"""A fetch is cut at so many messages and so many bytes of payload, whether it has to count the bytes or not."""

from collections.abc import Sequence

import pytest

from relay import store
from tests.engine import connect, settings
from tests.ledger import Ledger

_QUARTER_PAGE = 2048
"""Larger payloads lie in a table of their own, and have to be counted."""


async def _fetched(database_url: str, sizes: Sequence[int], *, messages: int, size: int) -> list[int]:
    """What a slot takes of messages with these sizes, by their positions."""
    async with connect(database_url) as connection:
        await Ledger(connection).add("t", [(b"key", bytes(each)) for each in sizes])
        ids = [row[0] for row in await connection.fetch("SELECT id FROM outbox_messages ORDER BY id")]
    slot = await store.connect(settings(database_url))
    async with slot.transaction():
        lanes = await store.claim(slot, range(32), limit=32)
        fetched = await store.fetch(slot, lanes, messages=messages, size=size)
    await slot.close(timeout=10)
    return [ids.index(each.id) for each in fetched.messages]


@pytest.mark.parametrize(
    ("sizes", "messages", "size", "taken"),
    [
        ([1500] * 20, 10, 10 * _QUARTER_PAGE, 10),
        ([1500] * 20, 20, 10_000, 7),
        ([1500] * 20, 20, 1, 1),
        ([100] * 5 + [150_000] * 5, 100, 100 * _QUARTER_PAGE, 7),
        ([150_000] + [100] * 5, 100, 100 * _QUARTER_PAGE, 6),
        ([250_000] + [100] * 5, 100, 100 * _QUARTER_PAGE, 1),
        ([100] * 5 + [250_000], 4, 100 * _QUARTER_PAGE, 4),
    ],
)
async def test_it_is_cut_at_messages_and_at_bytes(
    database_url: str, sizes: list[int], messages: int, size: int, taken: int
) -> None:
    assert await _fetched(database_url, sizes, messages=messages, size=size) == list(range(taken))
