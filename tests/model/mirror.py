"""Reads PostgreSQL's tables into the model's words, so that what statements do can be compared with what it says."""

import asyncpg

from relay.floor import Lane
from relay.store import Fetched
from tests.model.configuration import Config, quick
from tests.model.state import (
    CLOSED,
    FREE,
    HALF_OPEN,
    IN_LANE,
    OPEN,
    Claimed,
    DeadLetter,
    Got,
    LaneRow,
    Message,
    Parked,
    Slot,
    State,
    TopicRow,
)
from tests.model.world import World

_LANES = "SELECT floor, seen, coalesce(mark, 0), mark_xid::text::bigint, has_parked FROM outbox_lanes ORDER BY lane"
_OWED = "SELECT id, lane, topic, key FROM outbox_messages"
_PARKED = "SELECT id, lane, topic, key, coalesce(behind, 0) AS behind FROM outbox_parked"
# When a dead letter was decided is a number in the model: here, microseconds.
_DEAD = """
    SELECT id, lane, topic, key, state,
        coalesce((extract(epoch FROM returning_at) * 1000000)::bigint, 0) AS returning_at
    FROM outbox_dead_letters ORDER BY id
"""
_TOPICS = """
    SELECT topic, on_dead_letter, paused_at IS NOT NULL AS paused, closed_at IS NOT NULL AS closed,
        closed_until <= clock_timestamp() AS half_open, refused_in_a_row
    FROM outbox_topics
"""


def world(topics: str, *, lanes: int, refusals_to_close: int) -> World:
    """The model's functions for tables that are really there."""
    writes = tuple(quick(topic=topic) for topic in topics)
    return World(Config(writes, lanes=lanes, refusals_to_close=refusals_to_close))


async def read(connection: asyncpg.Connection, world: World) -> State:
    """The committed rows; of writers and slots nothing."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        lanes = await connection.fetch(_LANES)
        owed = await connection.fetch(_OWED)
        parked = await connection.fetch(_PARKED)
        dead = await connection.fetch(_DEAD)
        topics = {row["topic"]: row for row in await connection.fetch(_TOPICS)}
    rows = {row["id"]: row for row in (*owed, *parked, *dead)}
    nowhere = Message(0, "", world.config.topics[0], 0, bad=False)
    return world.start()._replace(
        messages=tuple(
            Message(0, (row["key"] or b"").hex(), row["topic"], row["lane"], bad=False)
            if (row := rows.get(number))
            else nowhere
            for number in range(1, max(rows, default=0) + 1)
        ),
        lanes=tuple(LaneRow(floor, seen, mark, xid or 0, has_parked) for floor, seen, mark, xid, has_parked in lanes),
        owed=frozenset(row["id"] for row in owed),
        parked=frozenset(Parked(row["id"], row["behind"]) for row in parked),
        dead=tuple(DeadLetter(row["id"], row["state"], row["returning_at"]) for row in dead),
        topics=tuple(_topic(topics.get(name)) for name in world.config.topics),
        moment=max((row["returning_at"] for row in dead), default=0),
    )


def slot(lanes: list[Lane], *, cut: int, alone: bool) -> Slot:
    """A slot that has claimed these lanes."""
    claimed = tuple(
        Claimed(
            lane.lane,
            LaneRow(lane.floor, lane.seen, lane.mark or 0, lane.mark_xid or 0, lane.has_parked),
        )
        for lane in sorted(lanes, key=lambda lane: lane.lane)
    )
    return Slot(at="claimed", lanes=claimed, xid=lanes[0].xid, cut=cut, alone=alone)


def got(fetched: Fetched) -> tuple[Got, ...]:
    """What a fetch returned."""
    return tuple(
        Got(
            message.id,
            FREE if message.held is None else message.held,
            IN_LANE if message.behind is None else message.behind,
        )
        for message in sorted(fetched.messages, key=lambda message: message.id)
    )


def returning(fetched: Fetched) -> tuple[tuple[int, int], ...]:
    """The dead letters whose followers come back, as the fetch saw them."""
    return tuple(sorted((number, moment) for _, number, moment in fetched.returning))


def rows(state: State) -> dict[str, object]:
    """What is comparable: of `returning_at` only whether it is set."""
    return {
        "lanes": state.lanes,
        "owed": state.owed,
        "parked": state.parked,
        "dead letters": [(letter.id, letter.state, letter.returning > 0) for letter in state.dead],
        "topics": state.topics,
    }


def _topic(row: asyncpg.Record | None) -> TopicRow:
    if row is None:
        return TopicRow("park")
    state = OPEN if not row["closed"] else HALF_OPEN if row["half_open"] else CLOSED
    return TopicRow(row["on_dead_letter"], row["paused"], state, row["refused_in_a_row"])
