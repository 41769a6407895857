"""What a round records: the settle, in one transaction with the claim.

It speaks to asyncpg directly, as `relay.store` does.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import asyncpg
from pydantic_core import to_json

from app import log
from app.outbox.fingerprint import fingerprints
from app.settings import Settings
from relay import statements
from relay.floor import Lane
from relay.outcomes import Delivered, OwedMessage, Refused

logger = log.get(__name__)


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


def _literal(numbers: Sequence[int]) -> str:
    """The array of these numbers, as PostgreSQL reads it: as JSON has it, but for the brackets."""
    return f"{{{to_json(numbers)[1:-1].decode()}}}"


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
                *(batch.messages[0].topic, batch.partition, batch.offset, span, among),
                *(_literal(ids[those]), _literal(created_at[those]), _literal(prints[those])),
            )
        )
    return kept
