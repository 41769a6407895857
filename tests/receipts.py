"""Single receipts in the hands of a test that may do with them what a relay never would."""

from collections.abc import Collection
from uuid import UUID

import asyncpg

# Of batches that have one of these messages, each receipt becomes a batch of its own.
_TAKE_APART = """
    WITH gone AS (
        DELETE FROM outbox_receipt_batches WHERE message_ids && $1::uuid[] AND cardinality(ids) > 1 RETURNING *
    )
    INSERT INTO outbox_receipt_batches
    SELECT topic, partition, "offset" + n - 1, delivered_at, outbox_message_id_range(m.message_id, m.message_id, '[]'),
        ARRAY[m.message_id], ARRAY[m.id], ARRAY[m.created], ARRAY[m.fingerprint]
    FROM gone CROSS JOIN LATERAL unnest(message_ids, ids, created_at_us, fingerprints)
        WITH ORDINALITY AS m (message_id, id, created, fingerprint, n)
"""
_FORGET = "DELETE FROM outbox_receipt_batches WHERE message_ids && $1::uuid[]"
_MOVE = 'UPDATE outbox_receipt_batches SET "offset" = $2 WHERE message_ids && ARRAY[$1::uuid]'


async def forget(connection: asyncpg.Connection, message_ids: Collection[UUID]) -> None:
    """These messages have no receipts any more; others of their batches have."""
    await connection.execute(_TAKE_APART, message_ids)
    await connection.execute(_FORGET, message_ids)


async def move(connection: asyncpg.Connection, message_id: UUID, offset: int) -> None:
    """The message's receipt names another offset; others of its batch do not."""
    await connection.execute(_TAKE_APART, [message_id])
    await connection.execute(_MOVE, message_id, offset)
