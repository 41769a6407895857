"""What operators may do to topics and dead letters. Each act is one short transaction of the caller's.

None of them needs a lane's lock: a relay reads these rows in each round, and messages that may go again are fetched
from where they lie (design §4, "Held").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Update, and_, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound
from app.outbox.models import outbox_dead_letters as dead_letters
from app.outbox.models import outbox_parked as parked
from app.outbox.models import outbox_topics as topics

_MESSAGE = ("lane", "id", "message_id", "topic", "key", "headers", "payload", "type", "created_at")
_IDENTITY = tuple_(dead_letters.c.lane, dead_letters.c.id)
_NOW = func.clock_timestamp()

Policy: TypeAlias = Literal["park", "continue"]
"""`park`: messages of its key wait behind a dead letter until somebody decides. `continue`: they overtake it."""


@dataclass(frozen=True, slots=True)
class ByIds:
    """These dead letters; each must be there and undecided."""

    message_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class OfTopic:
    """All undecided dead letters of a topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """All undecided dead letters."""


Which: TypeAlias = ByIds | OfTopic | Undecided


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that was chosen."""

    lane: int
    id: int
    message_id: UUID
    topic: str


async def choose(session: AsyncSession, which: Which, *, lock: bool = False) -> list[Letter]:
    """The undecided dead letters that `which` means, locked if they are to be decided.

    Raises NotFound for an id that is no dead letter's, and Conflict for one that was decided already.
    """
    condition: ColumnElement[bool]
    match which:
        case ByIds(message_ids):
            condition = dead_letters.c.message_id.in_(message_ids)
        case OfTopic(topic):
            condition = and_(dead_letters.c.topic == topic, dead_letters.c.state == "dead")
        case Undecided():
            condition = dead_letters.c.state == "dead"
    columns = [dead_letters.c[name] for name in ("lane", "id", "message_id", "topic", "state")]
    # Locked in one order, so that two who decide at once cannot deadlock.
    statement = select(*columns).where(condition).order_by(dead_letters.c.lane, dead_letters.c.id)
    rows = (await session.execute(statement.with_for_update() if lock else statement)).all()
    if isinstance(which, ByIds):
        missing = set(which.message_ids) - {row.message_id for row in rows}
        if missing:
            raise NotFound(f"no dead letter has the message id {', '.join(sorted(map(str, missing)))}")
        for row in rows:
            if row.state != "dead":
                raise Conflict(f"dead letter {row.message_id} is already {row.state}")
    return [Letter(row.lane, row.id, row.message_id, row.topic) for row in rows]


async def retry(session: AsyncSession, which: Which, *, by: str, reason: str | None = None) -> list[Letter]:
    """Send them again, before the messages that wait behind them: each goes among the parked, under its old id.

    Raises NotFound and Conflict, as `choose`.
    """
    letters = await choose(session, which, lock=True)
    retried = (
        _decide(letters, "retried", by=by, reason=reason)
        .returning(*(dead_letters.c[name] for name in _MESSAGE))
        .cte("retried")
    )
    whole = select(*(retried.c[name] for name in _MESSAGE), retried.c.id)
    if letters:
        await session.execute(insert(parked).from_select([*_MESSAGE, "behind"], whole))
    return letters


async def discard(session: AsyncSession, which: Which, *, by: str, reason: str) -> list[Letter]:
    """Never send them; the messages that wait behind them go. The dead letters stay, with who, when and why.

    Raises NotFound and Conflict, as `choose`.
    """
    letters = await choose(session, which, lock=True)
    if letters:
        await session.execute(_decide(letters, "discarded", by=by, reason=reason))
    return letters


def _decide(letters: Sequence[Letter], state: str, *, by: str, reason: str | None) -> Update:
    """Record a decision; `returning_at` tells the relays that messages behind these dead letters may go."""
    return (
        update(dead_letters)
        .where(_IDENTITY.in_([(letter.lane, letter.id) for letter in letters]))
        .values(state=state, decided_at=_NOW, decided_by=by, decision_reason=reason, returning_at=_NOW)
    )


async def pause(session: AsyncSession, topic: str, *, by: str, reason: str) -> None:
    """Send nothing to the topic until it is resumed; its messages are parked as they come up. Survives restarts."""
    statement = upsert(topics).values(topic=topic, paused_at=_NOW, paused_by=by, pause_reason=reason)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[topics.c.topic],
            set_={
                # Paused again: since the first time, for the last reason.
                "paused_at": func.coalesce(topics.c.paused_at, _NOW),
                "paused_by": statement.excluded.paused_by,
                "pause_reason": statement.excluded.pause_reason,
            },
        )
    )


async def resume(session: AsyncSession, topic: str) -> bool:
    """Open the topic, whoever or whatever shut it. Was it shut?"""
    shut = topics.c.paused_at.is_not(None) | topics.c.closed_at.is_not(None)
    opened = await session.execute(
        update(topics)
        .where(topics.c.topic == topic, shut | (topics.c.refused_in_a_row > 0))
        .values(
            paused_at=None,
            paused_by=None,
            pause_reason=None,
            closed_at=None,
            closed_until=None,
            close_reason=None,
            closures=0,
            refused_in_a_row=0,
        )
        .returning(topics.c.topic)
    )
    return opened.first() is not None


async def set_policy(session: AsyncSession, topic: str, policy: Policy) -> None:
    """What a dead letter of the topic means for later messages of its key.

    Once this is committed, call `apply_policy` in another transaction.
    """
    statement = upsert(topics).values(topic=topic, on_dead_letter=policy)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[topics.c.topic], set_={"on_dead_letter": statement.excluded.on_dead_letter}
        )
    )


async def apply_policy(session: AsyncSession, topic: str, policy: Policy) -> None:
    """Let go, or keep, what waits behind undecided dead letters of the topic.

    All of them are marked, also those behind which nobody waits: a round that read the old policy may park a message
    behind one of them a moment later. And it is a transaction of its own, after the one that set the policy: a dead
    letter that comes up too late to be marked here is then only ever seen together with the new policy.
    """
    await session.execute(
        update(dead_letters)
        .where(dead_letters.c.topic == topic, dead_letters.c.state == "dead")
        .values(returning_at=_NOW if policy == "continue" else None)
    )
