"""Looking at dead letters; `app.outbox.operators` decides on them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that Kafka refused, without its payload. `followers` wait behind it."""

    id: int
    message_id: UUID
    topic: str
    key: bytes | None
    type: str
    created_at: datetime
    state: str
    reason: str
    refusals: int
    first_refused_at: datetime
    refused_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    decision_reason: str | None
    followers: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a message carries; it may be personal data."""

    headers: list[tuple[str, bytes]]
    payload: bytes | None


# One that was retried lies among the parked itself, behind itself; it is no follower.
_DEAD_LETTERS = text(
    """
    SELECT d.id, d.message_id, d.topic, d.key, d.type, d.created_at, d.state, d.reason, d.refusals, d.first_refused_at,
        d.refused_at, d.decided_at, d.decided_by, d.decision_reason,
        (SELECT count(*) FROM outbox_parked AS p WHERE p.behind = d.id AND p.id <> d.id) AS followers
    FROM outbox_dead_letters AS d
    WHERE (CAST(:topic AS text) IS NULL OR d.topic = :topic) AND (CAST(:state AS text) IS NULL OR d.state = :state)
        AND (CAST(:message_id AS uuid) IS NULL OR d.message_id = :message_id)
    ORDER BY d.refused_at DESC, d.id DESC
    LIMIT :limit
    """
)

_CONTENT = text(
    """
    SELECT outbox_headers(headers) AS headers, payload FROM outbox_dead_letters
    WHERE message_id = :message_id ORDER BY id LIMIT 1
    """
)


async def list_dead_letters(
    session: AsyncSession, *, topic: str | None = None, state: str | None = None, limit: int
) -> list[DeadLetter]:
    """Dead letters, the last refused first."""
    rows = await session.execute(_DEAD_LETTERS, {"topic": topic, "state": state, "message_id": None, "limit": limit})
    return [DeadLetter(**row._mapping) for row in rows]


async def get_dead_letter(session: AsyncSession, message_id: UUID) -> DeadLetter:
    """The dead letter of this message. Raises NotFound."""
    parameters = {"topic": None, "state": None, "message_id": message_id, "limit": 1}
    row = (await session.execute(_DEAD_LETTERS, parameters)).one_or_none()
    if row is None:
        raise _not_found(message_id)
    return DeadLetter(**row._mapping)


async def get_content(session: AsyncSession, message_id: UUID) -> Content:
    """Headers and payload of a dead letter. Raises NotFound."""
    row = (await session.execute(_CONTENT, {"message_id": message_id})).one_or_none()
    if row is None:
        raise _not_found(message_id)
    flat = iter(row.headers)
    headers = [(name.decode("utf-8", "replace"), value) for name, value in zip(flat, flat, strict=True)]
    return Content(headers, row.payload)


def _not_found(message_id: UUID) -> NotFound:
    return NotFound(f"no dead letter has the message id {message_id}")
