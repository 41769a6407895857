"""All statements on the tables of the inbox. Each works in the caller's transaction and commits nothing."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

Outcome = Literal["handled", "dead_lettered"]
Partition = tuple[str, int]
"""Topic and number."""

# Remembers the ids that are new, in the order of ids, so that two consumers cannot wait for each other; for an id that
# another transaction is just writing it waits until that one has ended.
_REMEMBER = text(
    """
    INSERT INTO inbox_messages (consumer, message_id, fingerprint, outcome)
    SELECT :consumer, message_id, fingerprint, outcome
    FROM unnest(CAST(:ids AS text[]), CAST(:fingerprints AS bytea[]), CAST(:outcomes AS text[]))
        AS new (message_id, fingerprint, outcome)
    ORDER BY message_id COLLATE "C"
    ON CONFLICT ON CONSTRAINT pk_inbox_messages DO NOTHING
    RETURNING message_id
    """
)

# What was remembered under these ids. A statement of its own: the snapshot of the INSERT may be older than the winner.
_FINGERPRINTS = text(
    """
    SELECT message_id, fingerprint FROM inbox_messages
    WHERE consumer = :consumer AND message_id = ANY(CAST(:ids AS text[]))
    """
)

# Counts one more attempt at the record of this place.
_BEGIN_ATTEMPT = text(
    """
    INSERT INTO inbox_attempts AS known (consumer, topic, partition, "offset", attempts)
    VALUES (:consumer, :topic, :partition, :offset, 1)
    ON CONFLICT ON CONSTRAINT pk_inbox_attempts DO UPDATE SET attempts = known.attempts + 1
    RETURNING attempts, first_at
    """
)

# The record of this place is done with; so are all before it, whoever began them.
_END_ATTEMPT = text(
    """
    DELETE FROM inbox_attempts
    WHERE consumer = :consumer AND topic = :topic AND partition = :partition AND "offset" <= :offset
    """
)

# Puts our name on these partitions; xmax is not 0 where somebody's was still on it.
_TAKE_OVER = text(
    """
    INSERT INTO inbox_assignments (consumer, topic, partition, owner)
    SELECT :consumer, topic, partition, :owner
    FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS integer[])) AS taken (topic, partition)
    ORDER BY topic COLLATE "C", partition
    ON CONFLICT ON CONSTRAINT pk_inbox_assignments DO UPDATE SET owner = EXCLUDED.owner, since = EXCLUDED.since
    RETURNING topic, partition, xmax <> 0 AS untidy
    """
)

# Takes our name off all partitions, not that of somebody who has taken one over meanwhile.
_LET_GO = text("DELETE FROM inbox_assignments WHERE consumer = :consumer AND owner = :owner")

# Forgets some of the ids that are older than the retention.
_FORGET = text(
    """
    DELETE FROM inbox_messages WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM inbox_messages
        WHERE consumer = :consumer AND handled_at < clock_timestamp() - CAST(:retention AS interval)
        LIMIT :most
    ))
    """
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A message to remember: its id, what tells it from another with this id, and what becomes of it."""

    message_id: str
    fingerprint: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often a record was begun, this time included, and when first, by the clock of the database."""

    number: int
    first_at: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies."""

    topic: str
    partition: int
    offset: int


async def remember(session: AsyncSession, consumer: str, entries: Sequence[Entry]) -> set[str]:
    """Remember these messages, whose ids differ; the ids that were not known before."""
    rows = await session.execute(
        _REMEMBER,
        {
            "consumer": consumer,
            "ids": [entry.message_id for entry in entries],
            "fingerprints": [entry.fingerprint for entry in entries],
            "outcomes": [entry.outcome for entry in entries],
        },
    )
    return set(rows.scalars())


async def fingerprints(session: AsyncSession, consumer: str, ids: Collection[str]) -> dict[str, bytes]:
    """What is remembered under these ids."""
    rows = await session.execute(_FINGERPRINTS, {"consumer": consumer, "ids": list(ids)})
    return {row.message_id: row.fingerprint for row in rows}


def _place(consumer: str, place: Place) -> dict[str, object]:
    return {"consumer": consumer, "topic": place.topic, "partition": place.partition, "offset": place.offset}


async def begin_attempt(session: AsyncSession, consumer: str, place: Place) -> Attempts:
    """Count an attempt. Commit it before the record is touched, so that it outlives what the record does to us."""
    row = (await session.execute(_BEGIN_ATTEMPT, _place(consumer, place))).one()
    return Attempts(row.attempts, row.first_at)


async def end_attempt(session: AsyncSession, consumer: str, place: Place) -> None:
    """The record of this place, and all before it in its partition, are done with."""
    await session.execute(_END_ATTEMPT, _place(consumer, place))


async def take_over(
    session: AsyncSession, consumer: str, partitions: Collection[Partition], owner: UUID
) -> set[Partition]:
    """Say that `owner` reads these partitions from now on; those that the reader before has not let go."""
    topics, numbers = [topic for topic, _ in partitions], [number for _, number in partitions]
    rows = await session.execute(
        _TAKE_OVER, {"consumer": consumer, "owner": owner, "topics": topics, "partitions": numbers}
    )
    return {(row.topic, row.partition) for row in rows if row.untidy}


async def let_go(session: AsyncSession, consumer: str, owner: UUID) -> None:
    """`owner` has finished tidily what it began in all its partitions."""
    await session.execute(_LET_GO, {"consumer": consumer, "owner": owner})


async def forget(session: AsyncSession, consumer: str, *, retention: timedelta, most: int) -> int:
    """Forget up to `most` messages that were handled longer ago than this; how many that were."""
    result = await session.execute(_FORGET, {"consumer": consumer, "retention": retention, "most": most})
    return int(getattr(result, "rowcount", 0))
