"""The use cases of applications. Each works in the caller's transaction and commits nothing.

All statements on the table of applications are here and in `app.applications.listing`.
"""

from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import failpoints, outbox
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

# Stores an application; its id and its time are the database's.
_INSERT = insert(applications).returning(applications.c.id, applications.c.created_at)


@dataclass(frozen=True, slots=True)
class Created:
    """A new application, and the message that tells of it."""

    application: Application
    message: outbox.OutboxMessage


async def create(session: AsyncSession, *, user_name: str, description: str, topic: str, source: str) -> Created:
    """Store an application and owe the event about it to `topic`. Raises InvalidMessage when the event is too
    large.
    """
    application = await store(session, user_name=user_name, description=description)
    await failpoints.reach("api.after_domain")
    message = application_created(application, topic=topic, source=source)
    await outbox.add(session, message)
    return Created(application, message)


async def store(session: AsyncSession, *, user_name: str, description: str) -> Application:
    """Store an application, and tell nobody."""
    row = (
        await session.execute(
            _INSERT, {"user_name": user_name, "user_name_folded": fold(user_name), "description": description}
        )
    ).one()
    return Application(id=row.id, user_name=user_name, description=description, created_at=row.created_at)


async def get(session: AsyncSession, application_id: int) -> Application:
    """The application of this id. Raises NotFound."""
    row = (await session.execute(select(*_COLUMNS).where(applications.c.id == application_id))).one_or_none()
    if row is None:
        raise NotFound("there is no application of this id")
    return Application.model_validate(row._mapping)
