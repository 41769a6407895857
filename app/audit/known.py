"""What PostgreSQL knows of messages: all statements of the audit but the receipts' own. None of them writes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg

from app.audit.report import Example, Standing

# One statement over all tables, because the relay moves messages between them. Of receipts it takes the batches that
# span one of the messages, each once, and looks for these in them; IS TRUE makes that a look-up in a hash table,
# however few or many the planner expects.
_FIND = """
    SELECT m.message_id::text, 'receipt' AS place, b.topic, b.partition, b."offset" + m.number - 1 AS "offset",
        m.fingerprint, m.id, timestamptz '1970-01-01 00:00:00Z' + m.created_at_us * interval '1 microsecond'
    FROM outbox_receipt_batches AS b
    CROSS JOIN LATERAL unnest(b.message_ids, b.created_at_us, b.fingerprints, b.ids)
        WITH ORDINALITY AS m (message_id, created_at_us, fingerprint, id, number)
    WHERE b.span && (
        SELECT range_agg(outbox_message_id_range(wanted, wanted, '[]')) FROM unnest($1::uuid[]) AS wanted
    ) AND (m.message_id IN (SELECT unnest($1::uuid[]))) IS TRUE
    UNION ALL
    SELECT m.message_id::text, 'owed', m.topic, NULL, NULL, NULL, m.id, m.created_at
    FROM outbox_messages AS m WHERE m.message_id = ANY($1::uuid[])
    UNION ALL
    SELECT p.message_id::text, 'owed', p.topic, NULL, NULL, NULL, p.id, p.created_at
    FROM outbox_parked AS p WHERE p.message_id = ANY($1::uuid[])
    UNION ALL
    SELECT d.message_id::text, 'dead', d.topic, NULL, NULL, NULL, d.id, d.created_at
    FROM outbox_dead_letters AS d WHERE d.message_id = ANY($1::uuid[])
"""

# Topics that anything was, or is to be, sent to.
_TOPICS = """
    SELECT topic FROM (
        SELECT topic FROM outbox_receipt_batches
        UNION SELECT topic FROM outbox_messages
        UNION SELECT topic FROM outbox_parked
        UNION SELECT topic FROM outbox_dead_letters
    ) AS named
    ORDER BY topic COLLATE "C"
"""
# The same of these topics alone: the first row of each is enough.
_CHOSEN = """
    SELECT topic FROM unnest($1::text[]) AS chosen (topic)
    WHERE EXISTS (SELECT FROM outbox_receipt_batches AS b WHERE b.topic = chosen.topic)
        OR EXISTS (SELECT FROM outbox_messages AS m WHERE m.topic = chosen.topic)
        OR EXISTS (SELECT FROM outbox_parked AS p WHERE p.topic = chosen.topic)
        OR EXISTS (SELECT FROM outbox_dead_letters AS d WHERE d.topic = chosen.topic)
    GROUP BY topic ORDER BY topic COLLATE "C"
"""

# Messages with two receipts, and messages that have one and are still owed; with the number of all of them. The first
# sorts and compares neighbours, which is twice as fast as counting in groups. The second brings both together by
# counting: a join might be made for the few messages that the planner believes in.
_TWICE = """
    SELECT message_id::text, min(topic), count(*) OVER () FROM (
        SELECT message_id, topic, lead(message_id) OVER (ORDER BY message_id) AS next FROM (
            SELECT topic, unnest(message_ids) AS message_id FROM outbox_receipt_batches
            WHERE $1::text[] = '{}' OR topic = ANY($1)
        ) AS apart
    ) AS neighbours
    WHERE message_id = next GROUP BY message_id LIMIT $2
"""
_STILL_OWED = """
    WITH owed AS MATERIALIZED (
        SELECT message_id, topic FROM (
            SELECT message_id, topic FROM outbox_messages
            UNION ALL SELECT message_id, topic FROM outbox_parked
            UNION ALL SELECT message_id, topic FROM outbox_dead_letters WHERE state <> 'retried'
        ) AS m
        WHERE $1::text[] = '{}' OR m.topic = ANY($1)
    )
    SELECT message_id::text, max(topic), count(*) OVER () FROM (
        SELECT message_id, topic FROM owed
        UNION ALL
        SELECT message_id, NULL
        FROM outbox_receipt_batches AS b CROSS JOIN LATERAL unnest(b.message_ids) AS message_id
        WHERE b.span && (SELECT range_agg(outbox_message_id_range(message_id, message_id, '[]')) FROM owed)
    ) AS named
    GROUP BY message_id HAVING count(topic) > 0 AND count(*) > count(topic) LIMIT $2
"""

# Receipts that name partitions which are not there.
_ELSEWHERE = """
    SELECT message_id::text, partition, "offset" + number - 1, count(*) OVER ()
    FROM outbox_receipt_batches CROSS JOIN LATERAL unnest(message_ids) WITH ORDINALITY AS m (message_id, number)
    WHERE topic = $1 AND partition <> ALL($2::integer[]) LIMIT $3
"""

_STANDING = """
    SELECT (SELECT count(*) FROM outbox_messages), (SELECT count(*) FROM outbox_parked),
        (SELECT count(*) FROM outbox_dead_letters WHERE state = 'dead')
"""
_DEAD = """
    SELECT message_id::text, topic, reason FROM outbox_dead_letters WHERE state = 'dead'
    ORDER BY refused_at DESC LIMIT $1
"""

_NOW = "SELECT clock_timestamp()"


class Place(NamedTuple):
    """Where a receipt says that the record is; `fingerprint` is unsigned."""

    topic: str
    partition: int
    offset: int
    fingerprint: int


@dataclass(slots=True)
class Known:
    """What PostgreSQL knows of a message. `id` is -1 when nobody has kept it."""

    topic: str
    id: int
    created_at: datetime
    places: list[Place] = field(default_factory=list)
    decided: bool = False
    """Is, or was, it a dead letter? What became of its place in the order was decided by people."""


async def find(connection: asyncpg.Connection, message_ids: Collection[str]) -> dict[str, Known]:
    """What is known of these messages, by their ids; those that nobody knows are not in it."""
    found: dict[str, Known] = {}
    for message_id, place, topic, partition, offset, fingerprint, number, created_at in await connection.fetch(
        _FIND, list(message_ids)
    ):
        known = found.setdefault(message_id, Known(topic, -1, created_at))
        known.id = known.id if number is None else number
        if place == "receipt":
            known.places.append(Place(topic, partition, offset, fingerprint % (1 << 64)))
        known.decided |= place == "dead"
    return found


async def topics(connection: asyncpg.Connection, chosen: Sequence[str]) -> list[str]:
    """The chosen topics that PostgreSQL knows, or all it knows."""
    rows = await (connection.fetch(_CHOSEN, chosen) if chosen else connection.fetch(_TOPICS))
    return [row[0] for row in rows]


async def take_snapshot(connection: asyncpg.Connection) -> None:
    """The first statement of a transaction decides what all others see."""
    await connection.fetchval(_NOW)


async def false_receipts(
    connection: asyncpg.Connection, chosen: Sequence[str], examples: int
) -> Iterable[tuple[int, list[Example]]]:
    """Receipts that contradict others, or the tables, whatever stands in Kafka: how many, and some."""
    result = []
    for statement, detail in (
        (_TWICE, "the message has several receipts"),
        (_STILL_OWED, "the message has a receipt and is not done with"),
    ):
        rows = await connection.fetch(statement, chosen, max(1, examples))
        some = [Example(message_id, topic, None, None, detail) for message_id, topic, _ in rows[:examples]]
        result.append((rows[0][2] if rows else 0, some))
    return result


async def elsewhere(
    connection: asyncpg.Connection, topic: str, partitions: Sequence[int], examples: int
) -> tuple[int, list[Example]]:
    """Receipts of a topic that name none of these partitions: how many, and some."""
    rows = await connection.fetch(_ELSEWHERE, topic, partitions, max(1, examples))
    detail = "there is no such partition" if partitions else "there is no such topic"
    some = [Example(message_id, topic, partition, offset, detail) for message_id, partition, offset, _ in rows]
    return rows[0][3] if rows else 0, some[:examples]


async def standing(connection: asyncpg.Connection, examples: int) -> Standing:
    """What is owed, parked and dead now."""
    owed, parked, dead = await connection.fetchrow(_STANDING)
    rows = await connection.fetch(_DEAD, examples)
    return Standing(owed, parked, dead, tuple(Example(each[0], each[1], None, None, each[2]) for each in rows))


async def moment_ago(connection: asyncpg.Connection, age: timedelta) -> datetime:
    """That long ago, by the database's clock."""
    now: datetime = await connection.fetchval(_NOW)
    return now - age
