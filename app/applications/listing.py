"""Finding applications: what can be asked for, and the statements that find it."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import FromClause, Row, Select, func, literal, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from app.api.paging import REACH
from app.applications.models import applications as table
from app.applications.names import fold
from app.applications.schemas import Application
from app.db import sqlstate
from app.errors import NotFound, TooSlow

_T = TypeVar("_T")

_QUERY_CANCELED = "57014"
_LOCALLY = True  # until the end of the transaction
_COLUMNS = (table.c.id, table.c.user_name, table.c.description, table.c.created_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which applications, all conditions together. Names are compared ignoring case; `like` is a part of the name,
    `starts_with` its beginning, and no character in them means anything but itself.
    """

    user_name: str | None = None
    like: str | None = None
    starts_with: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """Applications of one page; is there another page; how many there are on all of them, at least `REACH` when
    `at_least` is set, None when nobody asked.
    """

    applications: Sequence[Application]
    more: bool
    total: int | None = None
    at_least: bool = False


async def list_page(
    session: AsyncSession, wanted: Wanted, *, page: int, size: int, count: bool, limit: timedelta
) -> Listed:
    """Page `page` (from 1). A page after the last is empty. Raises TooSlow after `limit`."""

    async def read() -> Listed:
        chosen = _chosen(wanted).limit(size + 1).offset((page - 1) * size).subquery()
        if not count:
            return _listed((await session.execute(select(chosen).order_by(*_order(chosen, wanted)))).all(), size)
        some = select(literal(1)).select_from(table).where(*_conditions(wanted)).limit(REACH + 1).subquery()
        total = select(func.count().label("total")).select_from(some).subquery()
        # One statement, so that the page and the total are of one snapshot. The join keeps the total when the page is
        # empty.
        statement = (
            select(total.c.total, chosen)
            .select_from(total.outerjoin(chosen, literal(value=True)))
            .order_by(*_order(chosen, wanted))
        )
        rows = (await session.execute(statement)).all()
        listed = _listed([row for row in rows if row.id is not None], size)
        found: int = rows[0].total
        return Listed(listed.applications, listed.more, min(found, REACH), at_least=found > REACH)

    return await _bounded(session, wanted, read, limit)


async def list_after(session: AsyncSession, wanted: Wanted, *, after: int, size: int, limit: timedelta) -> Listed:
    """What follows the application `after`, at the same cost however many come before it.

    Raises NotFound when there is no such application, and TooSlow after `limit`.
    """
    created_at = await session.scalar(select(table.c.created_at).where(table.c.id == after))
    if created_at is None:
        raise NotFound("there is no application of the id in `after`")

    async def read() -> Listed:
        place, last = tuple_(table.c.created_at, table.c.id), tuple_(literal(created_at), literal(after))
        beyond = place > last if wanted.oldest_first else place < last
        statement = _chosen(wanted).where(beyond).limit(size + 1)
        return _listed((await session.execute(statement)).all(), size)

    return await _bounded(session, wanted, read, limit)


async def _bounded(session: AsyncSession, wanted: Wanted, read: Callable[[], Awaitable[_T]], limit: timedelta) -> _T:
    """Search within `limit`. What is found by an index alone needs no bound."""
    if wanted.like is not None or wanted.starts_with is not None:
        milliseconds = str(max(1, round(limit / timedelta(milliseconds=1))))
        # A plan made once for all patterns would suit none: whether an index helps depends on the pattern.
        await session.execute(
            select(
                func.set_config("statement_timeout", milliseconds, _LOCALLY),
                func.set_config("plan_cache_mode", "force_custom_plan", _LOCALLY),
            )
        )
    try:
        return await read()
    except DBAPIError as error:
        if sqlstate(error) == _QUERY_CANCELED:
            raise TooSlow(f"the search was given up after {limit.total_seconds():g} s") from error
        raise


def _chosen(wanted: Wanted) -> Select[Any]:
    return select(*_COLUMNS).where(*_conditions(wanted)).order_by(*_order(table, wanted))


def _order(source: FromClause, wanted: Wanted) -> list[ColumnElement[Any]]:
    columns = (source.c.created_at, source.c.id)
    return [column.asc() if wanted.oldest_first else column.desc() for column in columns]


def _conditions(wanted: Wanted) -> Iterator[ColumnElement[bool]]:
    folded, created_at = table.c.user_name_folded, table.c.created_at
    if wanted.user_name is not None:
        yield folded == fold(wanted.user_name)
    if wanted.starts_with is not None:
        yield folded.startswith(fold(wanted.starts_with), autoescape=True)
    if wanted.like is not None:
        yield folded.contains(fold(wanted.like), autoescape=True)
    if wanted.created_from is not None:
        yield created_at >= wanted.created_from
    if wanted.created_before is not None:
        yield created_at < wanted.created_before


def _listed(rows: Sequence[Row[Any]], size: int) -> Listed:
    """A page out of rows of which one more than its size was asked for."""
    return Listed([Application.model_validate(row._mapping) for row in rows[:size]], more=len(rows) > size)
