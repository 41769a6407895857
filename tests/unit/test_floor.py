"""The floor never passes an id that is owed or may still be committed, and in the end it passes all others."""

import random
from collections.abc import Callable

import pytest

from relay.floor import Lane, Round, advance, most, moved

Rule = Callable[[Lane, Round], Lane]

HISTORIES, STEPS = 3000, 120

EMPTY = Lane(lane=0, floor=0, seen=0, mark=None, mark_xid=None, has_parked=False, xid=10)
NOTHING = Round(xmin=10, last=None, owed=None, full=False)


class History:
    """A lane, its writers and its relay, interleaved at random as PostgreSQL would let them.

    A writer has its xid before it draws an id. A claim sees what was committed when it fetched, and the oldest xid that
    was running then; by the time it settles, more has happened.
    """

    def __init__(self, rule: Rule, seed: int) -> None:
        self.rule, self.random = rule, random.Random(seed)
        self.next_xid, self.next_id = 10, 1
        self.writers: dict[int, list[int]] = {}  # running transactions and the ids they drew
        self.owed: set[int] = set()
        self.row = EMPTY
        self.claim: Lane | None = None
        self.learned: tuple[list[int], int, bool] | None = None  # ids fetched, xmin, was the limit hit?

    def run(self) -> None:
        """Raises AssertionError when an id that is owed, or may be, falls below the floor."""
        for _ in range(STEPS):
            self.random.choice((self.begin, self.draw_ids, self.draw_ids, self.end, self.relay, self.relay))()
            uncommitted = {number for ids in self.writers.values() for number in ids}
            stranded = {number for number in self.owed | uncommitted if number <= self.row.floor}
            assert not stranded, f"below the floor {self.row.floor}: {stranded}"

    def xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def begin(self) -> None:
        if len(self.writers) < 4:
            self.writers[self.xid()] = []

    def draw_ids(self) -> None:
        if self.writers:
            self.writers[self.random.choice(list(self.writers))].append(self.next_id)
            self.next_id += 1

    def end(self) -> None:
        if self.writers:
            ids = self.writers.pop(self.random.choice(list(self.writers)))
            self.owed |= set(ids) if self.random.random() < 0.8 else set()

    def relay(self) -> None:
        """The next step of a round; now and then the round is lost instead, and its lane row with it."""
        if self.claim is None:
            self.claim = self.row._replace(xid=self.xid())
        elif self.random.random() < 0.1:
            self.claim = self.learned = None
        elif self.learned is None:
            limit = self.random.choice((1, 2, 4, 100))
            fetched = sorted(number for number in self.owed if number > self.claim.floor)[:limit]
            self.learned = fetched, min((*self.writers, self.claim.xid)), len(fetched) == limit
        else:
            fetched, xmin, full = self.learned
            share = self.random.choice((0, 0.5, 1, 1))
            confirmed = {number for number in fetched if self.random.random() < share}
            self.owed -= confirmed
            owed = min(set(fetched) - confirmed, default=None)
            done = Round(xmin=xmin, last=max(fetched, default=None), owed=owed, full=full)
            if self.random.random() < 0.8:  # else the row was not worth writing
                self.row = self.rule(self.claim, done)
            self.claim = self.learned = None


def rises(rule: Rule) -> int:
    """In how many histories the floor rose at all."""
    count = 0
    for seed in range(HISTORIES):
        history = History(rule, seed)
        history.run()
        count += history.row.floor > 0
    return count


def test_no_interleaving_strands_a_message() -> None:
    assert rises(advance) > HISTORIES // 2


def test_no_row_moves_by_more_than_it_may() -> None:
    by = set()

    def noted(lane: Lane, done: Round) -> Lane:
        after = advance(lane, done)
        by.add(most(lane, done.last) - moved(lane, after))
        return after

    rises(noted)
    assert min(by) == 0, "never more, and sometimes as many"


def follow_the_last_id(lane: Lane, done: Round) -> Lane:
    return lane._replace(floor=max(lane.floor, done.last or 0))


def trust_the_fetching_claim(lane: Lane, done: Round) -> Lane:
    """Marks what this very round saw, with this claim's xid: a writer may be younger and still draw smaller ids."""
    after = advance(lane._replace(seen=max(lane.seen, done.last or 0)), done)
    return after._replace(seen=0)


def ignore_running_transactions(lane: Lane, done: Round) -> Lane:
    return advance(lane, done._replace(xmin=1 << 62))


def ignore_what_is_owed(lane: Lane, done: Round) -> Lane:
    return advance(lane, done._replace(owed=None))


def ignore_that_there_was_more(lane: Lane, done: Round) -> Lane:
    return advance(lane, done._replace(full=False))


@pytest.mark.parametrize(
    "wrong",
    [
        follow_the_last_id,
        trust_the_fetching_claim,
        ignore_running_transactions,
        ignore_what_is_owed,
        ignore_that_there_was_more,
    ],
)
def test_each_wrong_rule_strands_a_message(wrong: Rule) -> None:
    with pytest.raises(AssertionError, match="below the floor"):
        rises(wrong)


def test_the_floor_reaches_what_was_delivered_once_no_writer_is_left() -> None:
    lane = advance(EMPTY, NOTHING._replace(last=7))
    assert (lane.floor, lane.seen, lane.mark) == (0, 7, None)
    lane = advance(lane._replace(xid=20), NOTHING._replace(xmin=20))
    assert (lane.mark, lane.mark_xid) == (7, 20)
    waiting = advance(lane._replace(xid=30), NOTHING._replace(xmin=19))
    assert waiting.floor == 0
    assert waiting.mark == 7
    assert advance(lane._replace(xid=30), NOTHING._replace(xmin=20)).floor == 7


def test_a_message_without_an_answer_keeps_the_floor_below_it() -> None:
    lane = EMPTY._replace(seen=7, mark=7, mark_xid=10)
    assert advance(lane._replace(xid=11), Round(xmin=11, last=9, owed=5, full=False)).floor == 4


def test_a_fetch_that_hit_its_limit_says_nothing_beyond_its_last_id() -> None:
    lane = EMPTY._replace(seen=70, mark=70, mark_xid=10)
    assert advance(lane._replace(xid=11), Round(xmin=11, last=9, owed=None, full=True)).floor == 9


def test_a_mark_of_a_transaction_to_come_is_dropped() -> None:
    restored = EMPTY._replace(floor=3, seen=7, mark=7, mark_xid=10_000)
    after = advance(restored, NOTHING._replace(xmin=10))
    assert (after.floor, after.mark, after.mark_xid) == (3, 7, 10)


def test_how_far_a_row_moved() -> None:
    assert moved(EMPTY, EMPTY) == 0
    assert moved(EMPTY, EMPTY._replace(seen=5)) == 5
    assert moved(EMPTY, EMPTY._replace(seen=5, mark=4, mark_xid=10)) == 5
    assert moved(EMPTY._replace(seen=9, mark=9, mark_xid=10), EMPTY._replace(floor=9, seen=9)) == 9
