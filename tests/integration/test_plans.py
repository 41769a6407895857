"""The statements of a slot use their indexes, whatever statistics say and however many dead rows there are."""

import asyncpg
import pytest

from app.audit import known
from app.outbox import whereabouts
from relay import fetching, statements, store, work
from relay.floor import Lane
from relay.outcomes import OwedMessage
from relay.statements import Named
from tests.engine import connect, slot_session
from tests.explain import Explained, array, explain, explain_prepared
from tests.ledger import Ledger

_ID = "01890000-0000-7000-8000-000000000000"
_LARGE = {"outbox_messages", "outbox_parked", "outbox_dead_letters", "outbox_receipt_batches_default"}
_NO_VACUUM = "ALTER TABLE outbox_messages SET (autovacuum_enabled = off)"
# All that 200,000 deliveries leave behind.
_DELIVERED_BEFORE = """
    INSERT INTO outbox_messages (lane, topic, key, payload, type)
    SELECT outbox_bucket(key) & 31, 't', key, repeat('x', 100)::bytea, 'test'
    FROM (SELECT convert_to('key ' || n % 1000, 'UTF8') AS key FROM generate_series(1, 200000) AS n) AS fill;
    DELETE FROM outbox_messages;
    UPDATE outbox_lanes SET floor = 199000, seen = 199000;
"""
_PARKED_BEFORE = """
    INSERT INTO outbox_parked (lane, id, message_id, topic, key, headers, payload, type, created_at)
    SELECT outbox_bucket(key) & 31, n, outbox_uuid7(), 'shut', key, '{}', repeat('x', 100)::bytea, 'test', now()
    FROM (SELECT n, convert_to('key ' || n % 1000, 'UTF8') AS key FROM generate_series(1, 100000) AS n) AS fill;
    UPDATE outbox_lanes SET has_parked = true;
"""
# 10,000 batches of ten messages whose ids are made one after the other, as those of a round are.
_BATCHES_BEFORE = """
    INSERT INTO outbox_receipt_batches
    SELECT 't', 0, n * 10, clock_timestamp(), outbox_message_id_range(ids[1], ids[10], '[]'), ids,
        '{1,2,3,4,5,6,7,8,9,10}', '{0,0,0,0,0,0,0,0,0,0}', '{0,0,0,0,0,0,0,0,0,0}'
    FROM (
        SELECT n, array_agg(overlay(outbox_uuid7()::text PLACING lpad(to_hex(i), 8, '0') FROM 1)::uuid ORDER BY i)
            AS ids
        FROM generate_series(1, 10000) AS n, generate_series(n * 10, n * 10 + 9) AS i GROUP BY n
    ) AS made
"""
_TOPICS = {
    "paused": "INSERT INTO outbox_topics (topic, paused_at) VALUES ('shut', now())",
    "closed": "INSERT INTO outbox_topics (topic, closed_at, closed_until) VALUES ('shut', now(), now() + '1 hour')",
    "half-open": "INSERT INTO outbox_topics (topic, closed_at, closed_until) VALUES ('shut', now(), now())",
    "open": "INSERT INTO outbox_topics (topic) VALUES ('shut')",
}
_DEAD_LETTERS = """
    INSERT INTO outbox_dead_letters (lane, id, message_id, topic, key, headers, type, created_at, reason)
    SELECT outbox_bucket(key) & 31, n, outbox_uuid7(), 't', key, '{}', 'test', now(), 'TEST'
    FROM (SELECT n, convert_to('dead ' || n, 'UTF8') AS key FROM generate_series(1, 5000) AS n) AS fill
"""

# The receipt of a batch of one message, as parameters.
_RECEIPT = ("'t'", "0", "0", f"'[{_ID},{_ID}]'", f"'{{{_ID}}}'", "'{0}'", "'{0}'", "'{0}'")


def _names(named: Named, owed: list[OwedMessage]) -> tuple[str, str]:
    """Messages to delete, as parameters."""
    lanes, ids = array([each.lane for each in owed]), array([each.id for each in owed])
    match named:
        case Named.ROWS:
            rows = ",".join(f'"({page},{number})"' for page, number in (each.row for each in owed))
            return f"'{{{rows}}}'", array([each.id << 5 | each.lane for each in owed])
        case Named.IDS_OF_LANE:
            return f"'{owed[0].lane if owed else 1}'", ids
        case Named.LANES_AND_IDS:
            return lanes, ids


def _fetch(lanes: list[Lane], messages: int = 64) -> tuple[str, ...]:
    return (
        array([lane.lane for lane in lanes]),
        array([lane.floor for lane in lanes]),
        str(messages),
        "1000000",
        array([lane.has_parked for lane in lanes]),
    )


async def test_after_200_000_deliveries_without_vacuum(database_url: str) -> None:
    async with connect(database_url) as connection, connect(database_url) as reader, slot_session(database_url) as slot:
        await connection.execute(_NO_VACUUM)
        await connection.execute("ANALYZE")  # statistics of empty tables
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            await reader.fetchval("SELECT count(*) FROM outbox_messages")  # holds vacuum back, and all dead rows
            await connection.execute(_DELIVERED_BEFORE)
            messages = await Ledger(connection).fill("t", messages=1000, keys=200)
            async with slot.transaction():
                owed = await explain(slot, statements.CLAIM_OWED)
                lanes = await store.claim_owed(slot)
                plain = await explain(slot, fetching.PLAIN, *_fetch(lanes)[:4])
                uncounted = await explain(slot, fetching.PLAIN_UNCOUNTED, *_fetch(lanes)[:3])
                assert plain.plan["Actual Rows"] == uncounted.plan["Actual Rows"] == 1 + len(messages)
            await connection.execute(_DEAD_LETTERS)
            look = await explain(slot, work.LOOK)
            async with slot.transaction():
                claim = await explain(slot, statements.CLAIM, "'{0,1,2,3}'", "32")
                lanes = await store.claim(slot, range(32), limit=32)
                fetch = await explain(slot, fetching.FETCH, *_fetch(lanes))
                fetched = (await store.fetch(slot, lanes, messages=64, size=1_000_000)).messages
                assert len(fetched) == len(messages)
                settles = [
                    await explain(slot, statements.delivered(named, batches=1), *_RECEIPT, *_names(named, fetched))
                    for named in Named
                ]
                park = await explain(slot, statements.PARK, *(array([]),) * 3)
    by_row, *by_index = settles
    for explained in (look, claim, owed, fetch, plain, uncounted, *settles, park):
        assert not explained.read_whole & _LARGE
    for explained in (look, owed, fetch, plain, uncounted, *by_index):
        assert "pk_outbox_messages" in explained.indexes
    assert not by_row.indexes & {"pk_outbox_messages"}
    # 1,000 dead rows a lane at most lie above the floors; all 200,000 lie on more than 4,000 pages.
    assert look.buffers < 1500
    assert claim.buffers < 200
    assert owed.buffers < 1700
    assert fetch.buffers < 4000
    assert plain.buffers < 4000
    assert uncounted.buffers < 4000
    for explained in settles:
        assert explained.buffers < 25 * len(messages)


@pytest.mark.parametrize("state", _TOPICS)
async def test_with_100_000_parked_messages(database_url: str, state: str) -> None:
    async with connect(database_url) as connection, slot_session(database_url) as slot:
        await connection.execute("ANALYZE")
        await connection.execute(_PARKED_BEFORE)
        await connection.execute(_TOPICS[state])
        await Ledger(connection).fill("t", messages=320, keys=320)
        look = await explain(slot, work.LOOK)
        async with slot.transaction():
            claim = await explain(slot, statements.CLAIM, "'{0,1,2,3}'", "32")
            owed = await explain(slot, statements.CLAIM_OWED)
            lanes = await store.claim(slot, range(32), limit=32)
            fetch = await explain(slot, fetching.FETCH, *_fetch(lanes))
            rows = [
                array(list(column))
                for column in zip(*((lane.lane, lane.floor, lane.seen) for lane in lanes), strict=True)
            ]
            nulls = array(["null"] * len(lanes))
            write = await explain(slot, statements.LANES, *rows, nulls, nulls)
    assert len(lanes) == 32
    for explained in (look, claim, owed, fetch, write):
        assert not explained.read_whole & _LARGE
    assert look.buffers < 1500
    assert claim.buffers < 200
    assert owed.buffers < 1700
    assert fetch.buffers < (1500 if state != "open" else 10_000)  # open ones return, 64 of each lane
    assert write.buffers < 600


async def test_plans_made_while_nothing_was_owed_are_good_for_a_backlog(database_url: str) -> None:
    def parameters(name: str, owed: list[OwedMessage]) -> list[str]:
        if isinstance(of := deleting.get(name), Named):
            return [*_RECEIPT, *_names(of, owed)]
        return [*_names(Named.LANES_AND_IDS, owed), array(["1" if name == "bury" else "null"] * len(owed))]

    deleting = {named.name.lower(): named for named in Named}
    texts = {name: statements.delivered(named, batches=1) for name, named in deleting.items()}
    texts |= {name: getattr(statements, name.upper()) for name in ("park", "bury", "returned")}
    async with connect(database_url) as connection, slot_session(database_url) as slot:
        await connection.execute(_NO_VACUUM)
        await connection.execute("VACUUM (ANALYZE) outbox_messages, outbox_parked, outbox_dead_letters")
        for name, statement in texts.items():
            await slot.execute(f"PREPARE {name} AS {statement}")
            await explain_prepared(slot, name, *parameters(name, []))
        messages = await Ledger(connection).fill("t", messages=20_000, keys=1000)
        async with slot.transaction():
            lanes = await store.claim(slot, range(32), limit=32)
            fetched = (await store.fetch(slot, lanes, messages=32, size=1_000_000)).messages
            assert len(messages) > 16 * len(fetched), "reading everything for each name would not be noticed"
            for name in texts:
                explained = await _undone(slot, name, *parameters(name, fetched))
                assert explained.rows < 5 * len(fetched), f"{name} touched {explained.rows} rows"


async def test_a_delivered_message_is_found_by_the_span_of_its_batch(database_url: str) -> None:
    async with connect(database_url, plan_cache_mode="force_generic_plan") as connection:
        await connection.execute(_BATCHES_BEFORE)
        row = await connection.fetchrow("SELECT message_ids[3], message_ids[7] FROM outbox_receipt_batches OFFSET 777")
        one = whereabouts._FIND.text.replace(":message_id", "$1::uuid")
        lookups = [
            (await explain(connection, one, f"'{row[0]}'"), 1),
            (await explain(connection, known._FIND, array(list(row))), 2),
            (await explain(connection, known._FIND, array(list(row) * 2000)), 2),
        ]
    for explained, found in lookups:
        assert "outbox_receipt_batches_default" not in explained.read_whole
        assert "outbox_receipt_batches_default_span_idx" in explained.indexes
        assert explained.plan["Actual Rows"] == found
        assert explained.buffers < 100


async def _undone(slot: asyncpg.Connection, name: str, *arguments: str) -> Explained:
    """The plan of a statement that is rolled back, so that the next one finds the same."""
    savepoint = slot.transaction()
    await savepoint.start()
    try:
        return await explain_prepared(slot, name, *arguments)
    finally:
        await savepoint.rollback()
