"""What a slot asks of PostgreSQL: look for work, claim, fetch, settle.

A slot has one connection of its own, without a pool, and speaks to asyncpg directly: result rows of SQLAlchemy would
cost about as much again as the fetch (docs/decisions).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import asyncpg

from app import db, log
from app.outbox.fingerprint import fingerprints
from app.settings import Settings
from relay import fetching, statements, work
from relay.floor import Lane
from relay.outcomes import Delivered, OwedMessage, Refused

logger = log.get(__name__)

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


_owed = partial(tuple.__new__, OwedMessage)
"""A message of its row; half as dear as `_make`, which counts the columns."""


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


@dataclass(frozen=True, slots=True)
class Fetched:
    """One fetch.

    `topics` has those that are closed or refused their last messages, `returning` the dead letters (lane, id, since
    when) whose followers may be among the messages.
    """

    xmin: int
    messages: list[OwedMessage]
    topics: dict[str, Topic]
    returning: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class TopicChange:
    """What a round learned of a topic: `reason` closes it, `confirmed` opens it, `refused` counts."""

    reason: str | None = None
    confirmed: bool = False
    refused: int = 0


@dataclass(slots=True)
class Settlement:
    """All that a round has to record, in one transaction with the claim."""

    delivered: list[Delivered] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    parked: list[OwedMessage] = field(default_factory=list)
    reparked: list[OwedMessage] = field(default_factory=list)
    returning: list[tuple[int, int, int]] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)
    topics: dict[str, TopicChange] = field(default_factory=dict)


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
    except db.DRIVER_ERRORS as error:
        connection.terminate()
        raise db.unavailable(error) from error
    return connection


def _from_microseconds(moment: int) -> tuple[int]:
    return (moment - _FROM_1970_TO_2000,)


def _to_microseconds(encoded: tuple[int]) -> int:
    moment = encoded[0] + _FROM_1970_TO_2000
    return moment if _FIRST <= moment <= _LAST else min(max(moment, _FIRST), _LAST)


async def look(connection: asyncpg.Connection) -> Look:
    """The lanes that have work. What is not there yet is found by a later look; nothing is counted as done here."""
    rows = await connection.fetch(work.LOOK)
    return Look([lane for lane, _ in rows], payload_max=rows[0][1] if rows else None)


async def claim(connection: asyncpg.Connection, lanes: Sequence[int], *, limit: int) -> list[Lane]:
    """Lock up to `limit` of these lanes, in this order, that nobody holds; until the transaction ends."""
    return [Lane(*row) for row in await connection.fetch(statements.CLAIM, lanes, limit)]


async def claim_owed(connection: asyncpg.Connection) -> list[Lane]:
    """Lock all lanes that owe something and that nobody holds; until the transaction ends. Those with other work are
    left to a look.
    """
    return [Lane(*row) for row in await connection.fetch(statements.CLAIM_OWED)]


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


async def settle(connection: asyncpg.Connection, settlement: Settlement, settings: Settings) -> None:
    """Record everything; the caller commits. Rows of `outbox_topics` are written last, sorted."""
    await _delivered(connection, settlement.delivered, receipts=settings.receipts)
    if settlement.refused:
        refused = settlement.refused
        await connection.execute(
            statements.BURY,
            [each.message.lane for each in refused],
            [each.message.id for each in refused],
            [each.reason for each in refused],
        )
    if settlement.parked:
        await connection.execute(
            statements.PARK,
            [message.lane for message in settlement.parked],
            [message.id for message in settlement.parked],
            [message.held or None for message in settlement.parked],
        )
    for (lane, held), ids in _by_place(settlement.reparked).items():
        await connection.execute(statements.REPARK, lane, ids, held or None)
    if settlement.returning:
        await connection.execute(statements.RETURNED, *zip(*settlement.returning, strict=True))
    if settlement.lanes:
        await connection.execute(
            statements.LANES,
            *zip(
                *((lane.lane, lane.floor, lane.seen, lane.mark, lane.mark_xid) for lane in settlement.lanes),
                strict=True,
            ),
        )
    if settlement.topics:
        changes = sorted(settlement.topics.items())
        await connection.execute(
            statements.TOPICS,
            [topic for topic, _ in changes],
            [change.reason for _, change in changes],
            [change.confirmed for _, change in changes],
            [change.refused for _, change in changes],
            settings.relay_probe_min,
            settings.relay_probe_max,
        )


def _by_place(messages: Sequence[OwedMessage]) -> dict[tuple[int, int | None], list[int]]:
    """The ids of messages, by lane and by what holds them."""
    places: defaultdict[tuple[int, int | None], list[int]] = defaultdict(list)
    for message in messages:
        places[message.lane, message.held].append(message.id)
    return places


def _literal(numbers: Iterable[int]) -> str:
    """The array of these numbers, as PostgreSQL reads it."""
    return f"{{{str([*numbers])[1:-1]}}}"


async def _delivered(connection: asyncpg.Connection, batches: Sequence[Delivered], *, receipts: bool) -> None:
    """Delete what was confirmed, from the lanes and from the parked, and keep the receipts: of what the broker
    confirmed, whoever removed a row meanwhile.
    """
    if not batches:
        return
    # In columns at once: asking each message for its fields costs more than all the rest.
    messages = chain.from_iterable(batch.messages for batch in batches)
    lanes, ids, message_ids, _, keys, _, payloads, _, created_at, _, behind, rows = zip(*messages, strict=True)
    kept: list[tuple[object, ...]] = []
    if receipts:
        kept = _receipts(batches, message_ids, ids, created_at, fingerprints(keys, payloads))
    in_lanes = behind.count(None) == len(behind)
    while len(kept) > (statements.TOGETHER if in_lanes else 0):  # the others are kept by the statement that deletes
        some, kept = kept[: statements.TOGETHER], kept[statements.TOGETHER :]
        await connection.execute(statements.receipts(len(some)), *chain.from_iterable(some))
    if in_lanes:
        await _delete(connection, lanes, ids, rows, kept)
        return
    for parked in (False, True):
        places = zip(lanes, ids, rows, behind, strict=True)
        there = [place for *place, dead_letter in places if (dead_letter is not None) is parked]
        if there:
            await _delete(connection, *zip(*there, strict=True), parked=parked)


async def _delete(
    connection: asyncpg.Connection,
    lanes: Sequence[int],
    ids: Sequence[int],
    rows: Sequence[tuple[int, int]],
    kept: Sequence[tuple[object, ...]] = (),
    *,
    parked: bool = False,
) -> None:
    """Delete these messages from their lanes or from the parked; with the receipts `kept`, if there are any."""
    table = "outbox_parked" if parked else "outbox_messages"
    if len(ids) <= statements.FEW and not parked:
        named = statements.Named.ROWS
        places = ",".join([f'"({page},{number})"' for page, number in rows])
        names = f"{{{places}}}", _literal([number << 5 | lane for lane, number in zip(lanes, ids, strict=True)])
    elif lanes.count(lanes[0]) == len(lanes):
        named, names = statements.Named.IDS_OF_LANE, (str(lanes[0]), _literal(ids))
    else:
        named, names = statements.Named.LANES_AND_IDS, (_literal(lanes), _literal(ids))
    statement = statements.delivered(named, batches=len(kept), table=table)
    status = await connection.execute(statement, *chain.from_iterable(kept), *names)
    deleted = int(status.rpartition(" ")[2])
    if deleted != len(ids):  # somebody else removed rows of a claimed lane: never ours to do silently
        logger.error("settle.rows_missing", table=table, expected=len(ids), deleted=deleted)


def _receipts(
    batches: Sequence[Delivered],
    message_ids: Sequence[str],
    ids: Sequence[int],
    created_at: Sequence[int],
    prints: Sequence[int],
) -> list[tuple[object, ...]]:
    """What is kept of each batch, for `statements.receipts`."""
    kept, last = list[tuple[object, ...]](), 0
    for batch in batches:
        those = slice(last, last := last + len(batch.messages))
        among = message_ids[those]
        span = f"[{min(among)},{max(among)}]"  # printed alike, UUIDs sort as PostgreSQL sorts them
        kept.append(
            (
                *(batch.messages[0].topic, batch.partition, batch.offset, span, f"{{{','.join(among)}}}"),
                *(_literal(ids[those]), _literal(created_at[those]), _literal(prints[those])),
            )
        )
    return kept
