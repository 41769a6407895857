"""Adding messages to the outbox, inside the caller's transaction."""

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app import trace
from app.db import constraint
from app.errors import InvalidMessage
from app.outbox.headers import stored
from app.outbox.message import OutboxMessage

LOCK_NAMESPACE = 1869968499
"""First half of the advisory lock of a key's bucket (the bytes "outs"); `outbox_add` uses the same."""

# Takes the locks of all keys, in the order of their buckets, and only then draws the ids: for one key, id order is
# commit order. The INSERT selects FROM the locks, because a CTE that nobody reads is not run; count(*) takes all of
# them before the first id is drawn. A message without a key takes no lock and goes to any lane.
_ADD = text(
    """
    WITH input AS MATERIALIZED (
        SELECT *, outbox_bucket(key) AS bucket
        FROM unnest(
            CAST(:message_ids AS uuid[]), CAST(:topics AS text[]), CAST(:keys AS bytea[]), CAST(:headers AS text[]),
            CAST(:payloads AS bytea[]), CAST(:types AS text[])
        ) WITH ORDINALITY AS row (message_id, topic, key, headers, payload, type, position)
    ), locks AS MATERIALIZED (
        SELECT count(*) AS taken FROM (
            SELECT pg_advisory_xact_lock(CAST(:namespace AS integer), bucket)
            FROM (SELECT DISTINCT bucket FROM input WHERE bucket IS NOT NULL) AS buckets
            ORDER BY bucket
        ) AS lock
    )
    INSERT INTO outbox_messages (lane, message_id, topic, key, headers, payload, type)
    SELECT coalesce(bucket & 31, floor(random() * 32)), message_id, topic, key, CAST(headers AS bytea[]), payload, type
    FROM locks, input
    ORDER BY position
    """
)

_LIMITS = {
    "ck_outbox_messages_size": "key, headers and payload together are larger than MESSAGE_MAX_BYTES",
    "ck_outbox_messages_topic": "the topic's name is not one that Kafka takes",
    "ck_outbox_messages_type": "the type is empty or longer than 255 characters",
    "ck_outbox_messages_headers": "a header has no value",
}


def _literal(message: OutboxMessage) -> str:
    """The headers as a PostgreSQL literal of bytea[]; hexadecimal needs no escaping."""
    headers, traceparent = message.headers, message.traceparent or trace.current.get()
    if traceparent is not None:
        headers = (*headers, ("traceparent", traceparent.encode()))
    return "{" + ",".join(f'"\\\\x{part.hex()}"' for part in stored(headers)) + "}"


async def add(session: AsyncSession, *messages: OutboxMessage) -> None:
    """Owe these messages to Kafka if, and only if, the caller's transaction commits.

    Never commits and opens nothing. Messages of one key keep the order given here. A use case collects its messages
    and adds them once, last: the locks of the keys last until its transaction ends, and two calls in one transaction
    can deadlock with another's (40P01, which `app.db.in_transaction` repeats).
    Raises InvalidMessage when the database refuses a message; the transaction is then lost.
    """
    if not messages:
        return
    try:
        await session.execute(
            _ADD,
            {
                "namespace": LOCK_NAMESPACE,
                "message_ids": [message.message_id for message in messages],
                "topics": [message.topic for message in messages],
                "keys": [message.key for message in messages],
                "headers": [_literal(message) for message in messages],
                "payloads": [message.payload for message in messages],
                "types": [message.type for message in messages],
            },
        )
    except DBAPIError as error:
        limit = _LIMITS.get(constraint(error) or "")
        if limit is None:
            raise
        raise InvalidMessage(limit) from error
