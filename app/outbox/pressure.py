"""How much is owed, as far as it matters to those who would add more."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.outbox.ages import OLDEST_OWED


@dataclass(frozen=True, slots=True)
class Pressure:
    """`owed`: messages in lanes and parked, counted up to a limit. `oldest`: age of the oldest that nothing holds."""

    owed: int
    oldest: timedelta


# Reads no more than `:limit` rows of each table, and the heads of the lanes.
_READ = text(
    """
    SELECT
        (SELECT count(*) FROM (
            SELECT FROM outbox_lanes AS l CROSS JOIN LATERAL (
                SELECT FROM outbox_messages WHERE lane = l.lane AND id > l.floor
            ) AS m LIMIT :limit
        ) AS owed)
        + (SELECT count(*) FROM (SELECT FROM outbox_parked LIMIT :limit) AS parked) AS owed,
    """
    + OLDEST_OWED
    + " AS oldest"
)


async def read(session: AsyncSession, *, limit: int) -> Pressure:
    """The pressure now; more than `limit` owed messages need not be counted."""
    row = (await session.execute(_READ, {"limit": limit})).one()
    return Pressure(row.owed, row.oldest)
