"""What operators may know, read from the database alone: no relay needs to run.

Texts instead of SQLAlchemy Core where a statement goes by what only PostgreSQL has (laterals over lanes, its own
views). Nothing here locks or changes anything.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.outbox.ages import OLDEST_OWED, OLDEST_TRANSACTION


class TopicState(StrEnum):
    """Does a topic take messages?"""

    OPEN = "open"
    PAUSED = "paused"
    """By an operator, until it is resumed."""
    CLOSED = "closed"
    """By its breaker, until a moment."""
    HALF_OPEN = "half-open"
    """That moment has come: one message is tried."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What is known of a topic; `since`, `by` and `reason` say why it does not take messages."""

    topic: str
    state: TopicState
    since: datetime | None
    until: datetime | None
    by: str | None
    reason: str | None
    on_dead_letter: str
    owed: int
    parked: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Status:
    """The outbox at one moment of the database's clock.

    `oldest_owed`: age of the oldest message that nothing holds back. `oldest_transaction`: age of the oldest running
    transaction that writes; while it lasts, no floor moves. `delivered_last_minute` goes by the receipts.
    """

    at: datetime
    topics: list[Topic]
    oldest_owed: timedelta
    oldest_transaction: timedelta
    slots_connected: int
    delivered_last_minute: int

    @property
    def owed(self) -> int:
        """Messages that are still to be delivered, parked ones not included."""
        return sum(topic.owed for topic in self.topics)

    @property
    def parked(self) -> int:
        """Messages held behind a dead letter or a topic that takes none."""
        return sum(topic.parked for topic in self.topics)

    @property
    def dead_letters(self) -> int:
        """Dead letters that nobody has decided on."""
        return sum(topic.dead_letters for topic in self.topics)


# `now()` and not `clock_timestamp()` for the receipts: bounds that hold for the statement let PostgreSQL leave out the
# partitions of other days.
_STATUS = text(
    "SELECT clock_timestamp() AS at, "
    + OLDEST_OWED
    + " AS oldest_owed, "
    + OLDEST_TRANSACTION
    + """ AS oldest_transaction,
        (
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = :relay_application
        ) AS slots_connected,
        (
            SELECT coalesce(sum(cardinality(ids)), 0) FROM outbox_receipt_batches
            WHERE delivered_at > now() - interval '1 minute' AND delivered_at <= now()
        ) AS delivered_last_minute
    """
)

_TOPICS = text(
    """
    WITH owed AS (
        SELECT m.topic, count(*) AS messages
        FROM outbox_lanes AS l JOIN outbox_messages AS m ON m.lane = l.lane AND m.id > l.floor GROUP BY m.topic
    ), parked AS (
        SELECT topic, count(*) AS messages FROM outbox_parked GROUP BY topic
    ), dead AS (
        SELECT topic, count(*) AS messages FROM outbox_dead_letters WHERE state = 'dead' GROUP BY topic
    ), known AS (
        SELECT topic FROM owed UNION SELECT topic FROM parked UNION SELECT topic FROM dead
        UNION SELECT topic FROM outbox_topics UNION SELECT unnest(CAST(:topics AS text[]))
    )
    SELECT known.topic,
        CASE WHEN t.paused_at IS NOT NULL THEN 'paused' WHEN t.closed_until > clock_timestamp() THEN 'closed'
            WHEN t.closed_at IS NOT NULL THEN 'half-open' ELSE 'open' END AS state,
        coalesce(t.paused_at, t.closed_at) AS since,
        CASE WHEN t.paused_at IS NULL THEN t.closed_until END AS until,
        t.paused_by AS by,
        CASE WHEN t.paused_at IS NULL THEN t.close_reason ELSE t.pause_reason END AS reason,
        coalesce(t.on_dead_letter, 'park') AS on_dead_letter,
        coalesce(owed.messages, 0) AS owed,
        coalesce(parked.messages, 0) AS parked,
        coalesce(dead.messages, 0) AS dead_letters
    FROM known
    LEFT JOIN outbox_topics AS t USING (topic)
    LEFT JOIN owed USING (topic)
    LEFT JOIN parked USING (topic)
    LEFT JOIN dead USING (topic)
    ORDER BY known.topic
    """
)


async def read_topics(session: AsyncSession, known: tuple[str, ...] = ()) -> list[Topic]:
    """All topics that the outbox has dealt with, and the `known` ones, by name."""
    rows = await session.execute(_TOPICS, {"topics": list(known)})
    return [Topic(**{**row._mapping, "state": TopicState(row.state)}) for row in rows]


async def read_status(session: AsyncSession, *, relay_application: str, known: tuple[str, ...] = ()) -> Status:
    """How the outbox is doing. `relay_application`: what the slots' sessions are called in pg_stat_activity."""
    row = (await session.execute(_STATUS, {"relay_application": relay_application})).one()
    return Status(topics=await read_topics(session, known), **row._mapping)
