"""The use cases of applications. Each works in the caller's transaction and commits nothing.

All statements on the table of applications are here and in `app.applications.listing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app import failpoints, outbox, trace
from app.applications.events import application_created
from app.applications.models import applications
from app.applications.names import fold
from app.applications.schemas import Application
from app.errors import NotFound

_COLUMNS = (
    applications.c.id,
    applications.c.user_name,
    applications.c.description,
    applications.c.created_at,
)

# Stores applications; the ids and times, which are the database's, come in their order.
_INSERT = text(
    """
    INSERT INTO applications (user_name, user_name_folded, description)
    SELECT user_name, folded, description
    FROM unnest(CAST(:user_names AS text[]), CAST(:folded AS text[]), CAST(:descriptions AS text[]))
        WITH ORDINALITY AS new (user_name, folded, description, position)
    ORDER BY position
    RETURNING id, created_at
    """
)


@dataclass(frozen=True, slots=True)
class NewApplication:
    """What is applied for, and the trace context of the request that asks."""

    user_name: str = field(repr=False)
    description: str = field(repr=False)
    traceparent: str | None = field(default_factory=trace.current.get)


@dataclass(frozen=True, slots=True)
class Created:
    """A new application, and the message that tells of it."""

    application: Application
    message: outbox.OutboxMessage


async def create(session: AsyncSession, news: Sequence[NewApplication], *, topic: str, source: str) -> list[Created]:
    """Store applications and owe the events about them to `topic`. Raises InvalidMessage when one is too large."""
    applications = await store(session, news)
    await failpoints.reach("api.after_domain")
    created = [
        Created(application, application_created(application, topic=topic, source=source, traceparent=new.traceparent))
        for application, new in zip(applications, news, strict=True)
    ]
    await outbox.add(session, *(each.message for each in created))
    return created


async def store(session: AsyncSession, news: Sequence[NewApplication]) -> list[Application]:
    """Store applications, and tell nobody."""
    rows = await session.execute(
        _INSERT,
        {
            "user_names": [new.user_name for new in news],
            "folded": [fold(new.user_name) for new in news],
            "descriptions": [new.description for new in news],
        },
    )
    return [
        Application(id=row.id, user_name=new.user_name, description=new.description, created_at=row.created_at)
        for row, new in zip(rows, news, strict=True)
    ]


async def get(session: AsyncSession, application_id: int) -> Application:
    """The application of this id. Raises NotFound."""
    row = (await session.execute(select(*_COLUMNS).where(applications.c.id == application_id))).one_or_none()
    if row is None:
        raise NotFound("there is no application of this id")
    return Application.model_validate(row._mapping)
