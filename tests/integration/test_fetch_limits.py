"""A fetch is cut at so many messages and so many bytes of payload, whether it has to count the bytes or not."""

from collections.abc import Sequence

import pytest

from relay import fetching, store
from tests.engine import connect, slot_session
from tests.ledger import Ledger

_QUARTER_PAGE = 2048
"""Larger payloads lie in a table of their own, and have to be counted."""


async def _fetched(database_url: str, sizes: Sequence[int], *, messages: int, size: int) -> list[int]:
    """What a slot takes of messages with these sizes, by their positions; counted or, where that is safe, not."""
    async with connect(database_url) as connection:
        await Ledger(connection).add("t", [(b"key", bytes(each)) for each in sizes])
        ids = [row[0] for row in await connection.fetch("SELECT id FROM outbox_messages ORDER BY id")]
    async with slot_session(database_url) as slot, slot.transaction():
        look = await store.look(slot)
        assert look.payload_max == (_QUARTER_PAGE if max(sizes) < _QUARTER_PAGE else None)
        lanes = await store.claim(slot, look.lanes, limit=32)
        fetched = await store.fetch(slot, lanes, messages=messages, size=size)
        if look.payload_max is not None and messages * look.payload_max <= size:
            assert await store.fetch(slot, lanes, messages=messages, size=size, counted=False) == fetched
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


_LETTER = """
    INSERT INTO outbox_dead_letters
        (lane, id, message_id, topic, headers, type, created_at, reason, state, decided_at, returning_at)
    VALUES (5, 1, outbox_uuid7(), 't', '{}', 'test', now(), 'TEST', {how})
"""
_TOPIC = "INSERT INTO outbox_topics (topic, paused_at, closed_at, closed_until, refused_in_a_row) VALUES ('t', {how})"


@pytest.mark.parametrize(
    ("statement", "plain"),
    [
        ("SELECT 1", True),
        (_LETTER.replace("{how}", "'retried', now(), NULL"), True),
        (_TOPIC.replace("{how}", "NULL, NULL, NULL, 0"), True),
        (_LETTER.replace("{how}", "'dead', NULL, NULL"), False),
        (_LETTER.replace("{how}", "'retried', now(), now()"), False),
        (_TOPIC.replace("{how}", "now(), NULL, NULL, 0"), False),
        (_TOPIC.replace("{how}", "NULL, now(), now(), 0"), False),
        (_TOPIC.replace("{how}", "NULL, NULL, NULL, 1"), False),
    ],
)
async def test_the_plain_fetch_is_made_where_nothing_is_held(database_url: str, statement: str, plain: bool) -> None:
    """And only there: it sees what was decided after the claim, as the fetch of everything does."""
    async with connect(database_url) as connection, slot_session(database_url) as slot, slot.transaction():
        await Ledger(connection).fill("t", messages=50, keys=10)
        lanes = await store.claim_owed(slot)
        arguments = [lane.lane for lane in lanes], [lane.floor for lane in lanes], 20, 100_000
        await connection.execute(statement)
        (_, oldest, *_), *everything = await slot.fetch(fetching.FETCH, *arguments, [False] * len(lanes))
        assert len(everything) == 50
        for fetch, number in ((fetching.PLAIN, 4), (fetching.PLAIN_UNCOUNTED, 3)):
            (_, xmin, not_plain, *_), *rows = await slot.fetch(fetch, *arguments[:number])
            assert xmin == oldest
            assert (not_plain is None, rows) == (plain, everything if plain else [])
