"""The use cases of users. Each works in the caller's transaction and commits nothing.

All statements on the table of users are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, literal, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from app.errors import NotFound
from app.users.models import users
from app.users.schemas import User
from app.users.validation import NewUser, email_key

_COLUMNS = (users.c.id, users.c.name, users.c.surname, users.c.email, users.c.birthday, users.c.created_at)

_NEW = """
    FROM unnest(
        CAST(:names AS text[]), CAST(:surnames AS text[]), CAST(:emails AS text[]), CAST(:keys AS text[]),
        CAST(:birthdays AS date[])
    ) WITH ORDINALITY AS new (name, surname, email, email_key, birthday, position)
"""

# Stores those whose email nobody has, in the order of emails, so that two consumers cannot wait for each other. Of two
# new users with one email the first wins.
_INSERT_UNIQUE = text(
    f"""
    INSERT INTO users (name, surname, email, email_key, birthday)
    SELECT name, surname, email, email_key, birthday {_NEW}
    WHERE NOT EXISTS (SELECT FROM users AS known WHERE known.email_key = new.email_key COLLATE "C")
    ORDER BY new.email_key COLLATE "C", position
    ON CONFLICT ON CONSTRAINT uq_users_email_key DO NOTHING
    RETURNING id, email_key
    """  # noqa: S608 - joined from constants
)

# Stores all of them; the ids come in the order of the users.
_INSERT_ALL = text(
    f"""
    INSERT INTO users (name, surname, email, email_key, namesake, birthday)
    SELECT name, surname, email, email_key, hashtextextended(CAST(gen_random_uuid() AS text), 0), birthday {_NEW}
    ORDER BY position
    RETURNING id
    """
)

# Who has these emails; the first one where several have. A statement of its own: the snapshot of the INSERT may be
# older than the winner.
_WHO_HAS = text(
    "SELECT email_key, min(id) AS id FROM users WHERE email_key = ANY(CAST(:keys AS text[])) GROUP BY email_key"
)


class SameEmail(StrEnum):
    """What becomes of a new user whose email is known."""

    REJECT = "reject"
    RETURN = "return"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Stored:
    """The user has this id: a new one, or, with SameEmail.RETURN, that of the one who had the email."""

    id: int


@dataclass(frozen=True, slots=True)
class EmailTaken:
    """Another user has this email."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Users of one page, newest first, and how many there are on all pages."""

    users: Sequence[User]
    total: int


async def create(session: AsyncSession, new: Sequence[NewUser], *, same_email: SameEmail) -> list[Stored | EmailTaken]:
    """Store new users; what became of each, in their order."""
    if not new:
        return []
    values = {
        "names": [user.name for user in new],
        "surnames": [user.surname for user in new],
        "emails": [user.email for user in new],
        "keys": [user.email_key for user in new],
        "birthdays": [user.birthday for user in new],
    }
    if same_email is SameEmail.ALLOW:
        # RETURNING promises no order, but ids are drawn in the order of the users.
        return [Stored(number) for number in sorted((await session.execute(_INSERT_ALL, values)).scalars())]
    ids = {row.email_key: row.id for row in await session.execute(_INSERT_UNIQUE, values)}
    if same_email is SameEmail.RETURN:
        return await _find(session, new, ids)
    # The first of several with one email is the one that was stored.
    return [Stored(ids.pop(user.email_key)) if user.email_key in ids else EmailTaken() for user in new]


async def _find(session: AsyncSession, new: Sequence[NewUser], stored: Mapping[str, int]) -> list[Stored | EmailTaken]:
    missing = [user.email_key for user in new if user.email_key not in stored]
    rows = await session.execute(_WHO_HAS, {"keys": missing}) if missing else ()
    ids = {**{row.email_key: row.id for row in rows}, **stored}
    return [Stored(ids[user.email_key]) if user.email_key in ids else EmailTaken() for user in new]


async def get(session: AsyncSession, user_id: int) -> User:
    """The user of this id. Raises NotFound."""
    row = (await session.execute(select(*_COLUMNS).where(users.c.id == user_id))).one_or_none()
    if row is None:
        raise NotFound("there is no user of this id")
    return User.model_validate(row._mapping)


async def list_page(session: AsyncSession, *, email: str | None, page: int, size: int) -> Listed:
    """Page `page` (from 1) of the users, newest first; with one email, ignoring case, if `email` is given.

    A page after the last is empty.
    """
    wanted: ColumnElement[bool] = true() if email is None else users.c.email_key == email_key(email)
    # One statement, so that the page and the total are of one snapshot. The join keeps the total when the page is
    # empty.
    total = select(func.count().label("total")).select_from(users).where(wanted).subquery()
    chosen = (
        select(*_COLUMNS).where(wanted).order_by(users.c.id.desc()).limit(size).offset((page - 1) * size)
    ).subquery()
    statement = (
        select(total.c.total, chosen)
        .select_from(total.outerjoin(chosen, literal(value=True)))
        .order_by(chosen.c.id.desc())
    )
    rows = (await session.execute(statement)).all()
    return Listed([User.model_validate(row._mapping) for row in rows if row.id is not None], rows[0].total)
