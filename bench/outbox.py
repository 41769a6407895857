"""Filling the outbox."""

import time
from collections.abc import Sequence

import asyncpg

from bench.messages import TYPE, Sample
from tests.waiting import until

_COLUMNS = ["lane", "message_id", "topic", "key", "headers", "payload", "type"]

_LANES = "SELECT key, outbox_bucket(key) & 31 FROM unnest($1::bytea[]) AS key"
_SLOTS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outbox-relay' AND datname = current_database()"
)


async def clear(connection: asyncpg.Connection) -> None:
    """Start from nothing, so that each round finds the same."""
    await connection.execute("TRUNCATE outbox_messages, outbox_receipt_batches")


async def fill(connection: asyncpg.Connection, topic: str, messages: Sequence[Sample]) -> float:
    """Owe these messages, in one transaction; the moment (monotonic seconds) at which that was committed."""
    lanes = dict(await connection.fetch(_LANES, list({message.key for message in messages})))
    async with connection.transaction():
        await connection.copy_records_to_table(
            "outbox_messages",
            columns=_COLUMNS,
            records=[
                (lanes[each.key], each.message_id, topic, each.key, each.stored_headers, each.payload, TYPE)
                for each in messages
            ],
        )
    return time.monotonic()


async def check_empty(connection: asyncpg.Connection) -> None:
    """Raise RuntimeError when anything is still owed."""
    if owed := await connection.fetchval("SELECT count(*) FROM outbox_messages"):
        raise RuntimeError(f"{owed} messages are still owed")


async def connected(connection: asyncpg.Connection, slots: int) -> None:
    """Wait until all slots of a relay are there."""

    async def there() -> bool:
        return bool(await connection.fetchval(_SLOTS) >= slots)

    await until(there)
