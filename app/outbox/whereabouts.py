"""Where a message is on its way to Kafka."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """Committed, and on its way: a relay takes it as soon as it can."""

    message_id: UUID
    topic: str
    type: str
    created_at: datetime
    state: Literal["owed"] = "owed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """Held, behind a dead letter of its key (`behind_message_id`) or because its topic takes nothing now."""

    message_id: UUID
    topic: str
    type: str
    created_at: datetime
    parked_at: datetime
    behind_message_id: UUID | None
    topic_state: Literal["open", "paused", "closed"]
    topic_reason: str | None
    state: Literal["parked"] = "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """Kafka refused it for what it is (`reason`); it waits for a decision. `policy` is what its topic does with later
    messages of its key: `park` or `continue`.
    """

    message_id: UUID
    topic: str
    type: str
    created_at: datetime
    refused_at: datetime
    reason: str
    refusals: int
    policy: Literal["park", "continue"]
    state: Literal["dead"] = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """It was refused, and an operator decided that it is never sent; `decision_reason` says why."""

    message_id: UUID
    topic: str
    type: str
    created_at: datetime
    discarded_at: datetime
    reason: str
    decision_reason: str
    state: Literal["discarded"] = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Kafka has confirmed it: the copy at this place of the topic."""

    message_id: UUID
    topic: str
    partition: int
    offset: int
    created_at: datetime
    delivered_at: datetime
    state: Literal["delivered"] = "delivered"


Whereabouts: TypeAlias = Owed | Parked | Dead | Discarded | Delivered

# One statement over all tables: the relay moves messages between them, and two statements could look into each table
# while the message is in the other. A dead letter that was retried is where its message is now. Of a parked message
# `behind` names what still holds it; one that nothing holds is owed. Receipts are found by the batches that span it.
_FIND = text(
    """
    SELECT found.*,
        CASE WHEN t.paused_at IS NOT NULL THEN 'paused' WHEN t.closed_at IS NOT NULL THEN 'closed' ELSE 'open' END
            AS topic_state,
        CASE WHEN t.paused_at IS NOT NULL THEN t.pause_reason ELSE t.close_reason END AS topic_reason,
        coalesce(t.on_dead_letter, 'park') AS policy
    FROM (
        SELECT 1 AS place, 'owed' AS state, m.topic, m.type, m.created_at, NULL::timestamptz AS since,
            NULL::uuid AS behind_message_id, NULL::text AS reason, NULL::text AS decision_reason,
            NULL::integer AS number, NULL::bigint AS "offset"
        FROM outbox_messages AS m WHERE m.message_id = :message_id
        UNION ALL
        SELECT 2, 'parked', p.topic, p.type, p.created_at, p.parked_at, d.message_id, NULL, NULL, NULL, NULL
        FROM outbox_parked AS p
        LEFT JOIN outbox_dead_letters AS d ON d.lane = p.lane AND d.id = p.behind AND d.returning_at IS NULL
        WHERE p.message_id = :message_id
        UNION ALL
        SELECT 3, 'delivered', b.topic, NULL,
            timestamptz '1970-01-01 00:00:00Z' + b.created_at_us[place] * interval '1 microsecond', b.delivered_at,
            NULL, NULL, NULL, b.partition, b."offset" + place - 1
        FROM outbox_receipt_batches AS b
        CROSS JOIN LATERAL unnest(array_positions(b.message_ids, CAST(:message_id AS uuid))) AS place
        WHERE b.span @> CAST(:message_id AS uuid)
        UNION ALL
        SELECT 4, d.state, d.topic, d.type, d.created_at, coalesce(d.decided_at, d.refused_at), NULL, d.reason,
            d.decision_reason, d.refusals, NULL
        FROM outbox_dead_letters AS d WHERE d.message_id = :message_id AND d.state IN ('dead', 'discarded')
    ) AS found LEFT JOIN outbox_topics AS t USING (topic)
    ORDER BY place, since LIMIT 1
    """
)


async def find(session: AsyncSession, message_id: UUID) -> Whereabouts | None:
    """Where the message is; None when it was never committed, or has left no trace.

    A delivered one leaves its receipt, for as long as receipts are kept.
    """
    row = (await session.execute(_FIND, {"message_id": message_id})).one_or_none()
    if row is None:
        return None
    match row.state:
        case "delivered":
            return Delivered(
                message_id=message_id,
                topic=row.topic,
                partition=row.number,
                offset=row.offset,
                created_at=row.created_at,
                delivered_at=row.since,
            )
        case "dead":
            return Dead(
                message_id=message_id,
                topic=row.topic,
                type=row.type,
                created_at=row.created_at,
                refused_at=row.since,
                reason=row.reason,
                refusals=row.number,
                policy=row.policy,
            )
        case "discarded":
            return Discarded(
                message_id=message_id,
                topic=row.topic,
                type=row.type,
                created_at=row.created_at,
                discarded_at=row.since,
                reason=row.reason,
                decision_reason=row.decision_reason,
            )
        case "parked" if row.behind_message_id is not None or row.topic_state != "open":
            return Parked(
                message_id=message_id,
                topic=row.topic,
                type=row.type,
                created_at=row.created_at,
                parked_at=row.since,
                behind_message_id=row.behind_message_id,
                topic_state=row.topic_state,
                topic_reason=row.topic_reason,
            )
        case _:
            return Owed(message_id=message_id, topic=row.topic, type=row.type, created_at=row.created_at)
