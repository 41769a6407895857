"""What a slot asks of PostgreSQL: look for work, claim, fetch; what it records is in `relay.settlement`.

A slot has one connection of its own, without a pool, and speaks to asyncpg directly: result rows of SQLAlchemy would
cost about as much again as the fetch (docs/decisions).
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import asyncpg

from app import db
from app.settings import Settings
from relay import fetching, statements, work
from relay.floor import Lane
from relay.outcomes import OwedMessage

ROLE = "relay"
"""The slots' sessions are called `outbox-relay` in pg_stat_activity; housekeeping finds them by that."""

# A settle does not wait for the disk: what a crash of the server takes back is delivered again, as after a crash of the
# relay (docs/decisions/0015-a-settle-does-not-wait-for-the-disk.md). The tables are empty most of the time, so
# statistics say nothing: plans must use the indexes whatever these say. And a server that still sends to a frozen
# client is stopped by no time-out of PostgreSQL but these of TCP.
_SESSION = {
    "synchronous_commit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

# Moments come as microseconds since 1970 (UTC): objects would cost several times as much. PostgreSQL counts from 2000.
# One that no clock tells ('infinity') comes as near as RFC 3339 can say: it must not stop its lane.
_FROM_1970_TO_2000 = 946_684_800_000_000
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_214_400_000_000  # the first and the last day of RFC 3339


_UUID, _UUIDS = 2950, 2951
"""The types uuid and uuid[]; what PostgreSQL itself has, has the same number in each database."""
_ARRAY = struct.Struct(">iiiii")
"""What precedes the elements of an array: dimensions, are there NULLs, type of the elements, how many, the first's
number.
"""

_owed, _lane = partial(tuple.__new__, OwedMessage), partial(tuple.__new__, Lane)
"""A message, and a lane, of its row; half as dear as `_make`, which counts the columns."""


@dataclass(frozen=True, slots=True)
class Look:
    """The lanes that have work. No payload has more than `payload_max` bytes, if that is known."""

    lanes: list[int]
    payload_max: int | None


@dataclass(frozen=True, slots=True)
class Topic:
    """What a fetch learned of a topic: is it closed by its breaker, and how many messages did it refuse in a row."""

    closed: bool
    refused_in_a_row: int


class Fetched(NamedTuple):
    """One fetch.

    `topics` has those that are closed or refused their last messages, `returning` the dead letters (lane, id, since
    when) whose followers may be among the messages.
    """

    xmin: int
    messages: list[OwedMessage]
    topics: dict[str, Topic]
    returning: list[tuple[int, int, int]]


async def connect(settings: Settings) -> asyncpg.Connection:
    """A slot's connection. Raises DatabaseUnavailable."""
    idle = settings.relay_idle_timeout
    connection = await db.connect(
        settings,
        role=ROLE,
        statement=settings.relay_statement_timeout,
        idle=idle,
        extra=_SESSION | {"tcp_user_timeout": str(round(idle.total_seconds() * 1000))},
    )
    try:
        await connection.set_type_codec(
            "timestamptz", schema="pg_catalog", format="tuple", encoder=_from_microseconds, decoder=_to_microseconds
        )
        connection._protocol.get_settings().add_python_codec(  # noqa: SLF001 - set_type_codec, but that refuses arrays
            _UUIDS, "_uuid", "pg_catalog", [], "scalar", _from_uuids, bytes, "binary"
        )
    except db.DRIVER_ERRORS as error:
        connection.terminate()
        raise db.unavailable(error) from error
    return connection


def _from_microseconds(moment: int) -> tuple[int]:
    return (moment - _FROM_1970_TO_2000,)


def _to_microseconds(encoded: tuple[int]) -> int:
    moment = encoded[0] + _FROM_1970_TO_2000
    return moment if _FIRST <= moment <= _LAST else min(max(moment, _FIRST), _LAST)


def _from_uuids(texts: Sequence[str]) -> bytes:
    """An array as PostgreSQL reads it fastest, of UUIDs as text: before each its length, 16. There is at least one.

    To read text costs PostgreSQL more than all else about a receipt, and asyncpg makes objects of it first
    (docs/decisions/0018-ids-of-receipts-go-as-bytes.md).
    """
    length = "00000010"
    return _ARRAY.pack(1, 0, _UUID, len(texts), 1) + bytes.fromhex(length + length.join(texts).replace("-", ""))


async def look(connection: asyncpg.Connection) -> Look:
    """The lanes that have work. What is not there yet is found by a later look; nothing is counted as done here."""
    rows = await connection.fetch(work.LOOK)
    return Look([lane for lane, _ in rows], payload_max=rows[0][1] if rows else None)


async def claim(connection: asyncpg.Connection, lanes: Sequence[int], *, limit: int) -> list[Lane]:
    """Lock up to `limit` of these lanes, in this order, that nobody holds; until the transaction ends."""
    return list(map(_lane, await connection.fetch(statements.CLAIM, lanes, limit)))


async def claim_owed(connection: asyncpg.Connection) -> list[Lane]:
    """Lock all lanes that owe something and that nobody holds; until the transaction ends. Those with other work are
    left to a look.
    """
    return list(map(_lane, await connection.fetch(statements.CLAIM_OWED)))


async def fetch(
    connection: asyncpg.Connection, lanes: Sequence[Lane], *, messages: int, size: int, counted: bool = True
) -> Fetched:
    """What the claimed lanes owe and what is held: each list of a lane cut at `messages` and `size` payload bytes.

    Without `counted` not at `size`: the caller knows that so many messages do not have as many bytes.
    """
    if not any(lane.has_parked for lane in lanes):
        statement, limits = (fetching.PLAIN, (messages, size)) if counted else (fetching.PLAIN_UNCOUNTED, (messages,))
        (_, xmin, not_plain, *_), *rows = await connection.fetch(statement, *_claimed(lanes), *limits)
        if not_plain is None:
            return Fetched(xmin=xmin, messages=list(map(_owed, rows)), topics={}, returning=[])
    return await fetch_everything(connection, lanes, messages=messages, size=size)


async def fetch_everything(
    connection: asyncpg.Connection, lanes: Sequence[Lane], *, messages: int, size: int
) -> Fetched:
    """The same, whatever is held, parked or closed."""
    has_parked = [lane.has_parked for lane in lanes]
    (_, xmin, facts, *_), *rows = await connection.fetch(fetching.FETCH, *_claimed(lanes), messages, size, has_parked)
    topics, returning = json.loads(facts)
    return Fetched(
        xmin=xmin,
        messages=list(map(_owed, rows)),
        topics={name: Topic(*state) for name, state in (topics or {}).items()},
        returning=[tuple(letter) for letter in returning or ()],
    )


def _claimed(lanes: Sequence[Lane]) -> tuple[list[int], list[int]]:
    """The first parameters of each fetch."""
    return [lane.lane for lane in lanes], [lane.floor for lane in lanes]
