"""What operators do, as plain SQL, on the caller's connection."""

import asyncpg

_PAUSE = """
    INSERT INTO outbox_topics (topic, paused_at, paused_by, pause_reason) VALUES ($1, clock_timestamp(), 'test', 'test')
    ON CONFLICT (topic) DO UPDATE SET paused_at = excluded.paused_at, paused_by = 'test', pause_reason = 'test'
"""
_RESUME = "UPDATE outbox_topics SET paused_at = NULL, paused_by = NULL, pause_reason = NULL WHERE topic = $1"

_POLICY = """
    INSERT INTO outbox_topics (topic, on_dead_letter) VALUES ($1, $2)
    ON CONFLICT (topic) DO UPDATE SET on_dead_letter = excluded.on_dead_letter
"""

_RETRY = """
    WITH retried AS (
        UPDATE outbox_dead_letters SET state = 'retried', decided_at = clock_timestamp(), decided_by = 'test',
            returning_at = clock_timestamp()
        WHERE id = $1 AND state = 'dead'
        RETURNING lane, id, message_id, topic, key, headers, payload, type, created_at
    )
    INSERT INTO outbox_parked (lane, id, message_id, topic, key, headers, payload, type, created_at, behind)
    SELECT retried.*, id FROM retried
"""
_DISCARD = """
    UPDATE outbox_dead_letters SET state = 'discarded', decided_at = clock_timestamp(), decided_by = 'test',
        decision_reason = 'not wanted', returning_at = clock_timestamp()
    WHERE id = $1 AND state = 'dead'
"""


async def pause(connection: asyncpg.Connection, topic: str) -> None:
    await connection.execute(_PAUSE, topic)


async def resume(connection: asyncpg.Connection, topic: str) -> None:
    await connection.execute(_RESUME, topic)


async def on_dead_letter(connection: asyncpg.Connection, topic: str, policy: str) -> None:
    await connection.execute(_POLICY, topic, policy)


async def retry(connection: asyncpg.Connection, dead_letter: int) -> None:
    assert await connection.execute(_RETRY, dead_letter) == "INSERT 0 1"


async def discard(connection: asyncpg.Connection, dead_letter: int) -> None:
    assert await connection.execute(_DISCARD, dead_letter) == "UPDATE 1"
