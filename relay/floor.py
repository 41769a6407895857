"""The rule of the floor: up to which id a lane certainly owes nothing (design §4, explored in `docs/protocol.md`).

Ids are drawn before they are committed, so a message may appear below others that were delivered long ago. A floor
may pass an id only when every transaction that could still commit a smaller one has ended.
"""

from typing import NamedTuple


class Lane(NamedTuple):
    """A lane's row as the claim locked it. `xid` is the claim's own transaction id."""

    lane: int
    floor: int
    seen: int
    mark: int | None
    mark_xid: int | None
    has_parked: bool
    xid: int


class Round(NamedTuple):
    """What one claim learned of a lane.

    `xmin`: oldest running transaction in the fetch's own snapshot. `last`: largest id that was fetched from the lane.
    `owed`: smallest fetched id that is still owed after the settle. `full`: the fetch hit its limit, so there may be
    more above `last`.
    """

    xmin: int
    last: int | None
    owed: int | None
    full: bool


def advance(lane: Lane, done: Round) -> Lane:
    """The lane's row after a settle; the order of the three steps matters.

    Raises the floor to a mark whose transaction had ended before this fetch, but not past what is still owed; sets a
    new mark at what *earlier* rounds saw, with the xid of *this* claim; and only then takes this round's ids as seen.
    Never a snapshot's xmax, never the xid of the claim that fetched the id, never an xmin read after the fetch: each
    of them strands messages.
    """
    floor, mark, mark_xid = lane.floor, lane.mark, lane.mark_xid
    if mark_xid is not None and mark_xid > lane.xid:
        mark = mark_xid = None  # from a restored dump: that transaction is still to come
    if mark is not None and mark_xid is not None and mark_xid <= done.xmin:
        floor = max(floor, min(mark, _clear(done, lane.floor, otherwise=mark)))
        mark = mark_xid = None
    if mark is None and lane.seen > floor:
        mark, mark_xid = lane.seen, lane.xid
    seen = max(lane.seen, done.last or 0)
    return lane._replace(floor=floor, seen=seen, mark=mark, mark_xid=mark_xid)


def _clear(done: Round, floor: int, *, otherwise: int) -> int:
    """The id up to which this fetch saw nothing that is still owed."""
    if done.owed is not None:
        return done.owed - 1
    if done.full:
        return floor if done.last is None else done.last
    return otherwise


def moved(before: Lane, after: Lane) -> int:
    """By how many ids the row moved: the most of floor, mark and seen."""
    return max(
        after.floor - before.floor,
        (after.mark or after.floor) - (before.mark or before.floor),
        after.seen - before.seen,
    )


def most(lane: Lane, last: int | None) -> int:
    """By how many ids `advance` may move the row at most, if `last` is the largest id that was fetched; cheaper to know
    than by how many it does.
    """
    return max(lane.seen, last or 0) - lane.floor
