"""The use cases of applications. Each works in the caller's transaction and commits nothing.

All statements on the table of applications are here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, literal, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from app import outbox
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


@dataclass(frozen=True, slots=True)
class Listed:
    """Applications of one page, newest first, and how many there are on all pages."""

    applications: Sequence[Application]
    total: int


async def create(session: AsyncSession, *, user_name: str, description: str, topic: str, source: str) -> Created:
    """Store an application and owe the event about it to `topic`. Raises InvalidMessage when the event is too
    large.
    """
    row = (
        await session.execute(
            _INSERT, {"user_name": user_name, "user_name_folded": fold(user_name), "description": description}
        )
    ).one()
    application = Application(id=row.id, user_name=user_name, description=description, created_at=row.created_at)
    message = application_created(application, topic=topic, source=source)
    await outbox.add(session, message)
    return Created(application, message)


async def get(session: AsyncSession, application_id: int) -> Application:
    """The application of this id. Raises NotFound."""
    row = (await session.execute(select(*_COLUMNS).where(applications.c.id == application_id))).one_or_none()
    if row is None:
        raise NotFound("there is no application of this id")
    return Application.model_validate(row._mapping)


async def list_page(session: AsyncSession, *, user_name: str | None, page: int, size: int) -> Listed:
    """Page `page` (from 1) of the applications, newest first; of one user, ignoring case, if `user_name` is
    given.

    A page after the last is empty.
    """
    wanted: ColumnElement[bool] = true() if user_name is None else applications.c.user_name_folded == fold(user_name)
    # One statement, so that the page and the total are of one snapshot. The join keeps the total when the
    # page is empty.
    total = select(func.count().label("total")).select_from(applications).where(wanted).subquery()
    chosen = (
        select(*_COLUMNS).where(wanted).order_by(applications.c.id.desc()).limit(size).offset((page - 1) * size)
    ).subquery()
    statement = (
        select(total.c.total, chosen)
        .select_from(total.outerjoin(chosen, literal(value=True)))
        .order_by(chosen.c.id.desc())
    )
    rows = (await session.execute(statement)).all()
    return Listed(
        [Application.model_validate(row._mapping) for row in rows if row.id is not None],
        rows[0].total,
    )
