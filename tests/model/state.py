"""What the world looks like between two steps: PostgreSQL's rows, Kafka's topics, the relays' memory.

Everything is a tuple or a frozenset, so that equal worlds are recognised. 0 stands for NULL where ids and transaction
ids start at 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

IN_LANE, BEHIND_TOPIC = -1, 0
"""Where a fetched message lies, besides behind a dead letter (`relay.outcomes.OwedMessage.behind`: None, 0, id)."""
FREE, HELD_BY_TOPIC = -1, 0
"""Why it is held, besides by a dead letter (`OwedMessage.held`: None, 0, id)."""

OPEN, CLOSED, HALF_OPEN = "open", "closed", "half-open"
DEAD, RETRIED, DISCARDED = "dead", "retried", "discarded"
PARK, CONTINUE = "park", "continue"


class Writer(NamedTuple):
    """A transaction that writes; `step` is the next one of its script, -1 once it is rolled back."""

    step: int = 0
    xid: int = 0


class Message(NamedTuple):
    """What is known of an id that was drawn. `bad`: Kafka refuses it for what it is."""

    writer: int
    key: str
    topic: str
    lane: int
    bad: bool


class LaneRow(NamedTuple):
    """A row of outbox_lanes."""

    floor: int = 0
    seen: int = 0
    mark: int = 0
    mark_xid: int = 0
    has_parked: bool = False


class Parked(NamedTuple):
    """A row of outbox_parked."""

    id: int
    behind: int


class DeadLetter(NamedTuple):
    """A row of outbox_dead_letters; `returning` numbers the moments that `returning_at` would tell."""

    id: int
    state: str = DEAD
    returning: int = 0


class TopicRow(NamedTuple):
    """A row of outbox_topics; `state` is the breaker's."""

    policy: str
    paused: bool = False
    state: str = OPEN
    refused: int = 0

    @property
    def shut(self) -> bool:
        """Paused, or closed and at most half-open again."""
        return self.paused or self.state != OPEN


class Snapshot(NamedTuple):
    """What a claim's statement saw at its start. Empty unless a rule that needs it is off."""

    owed: tuple[int, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    topics: tuple[TopicRow, ...] = ()
    lanes: tuple[LaneRow, ...] = ()


class Claimed(NamedTuple):
    """A lane as the claim locked it."""

    lane: int
    row: LaneRow


class Got(NamedTuple):
    """A message as the fetch returned it."""

    id: int
    held: int
    behind: int


class Outcome(NamedTuple):
    """How one batch ended; `kind` is the name of a type of `relay.outcomes`."""

    kind: str
    ids: tuple[int, ...]


Batch = tuple[int, ...]


class Slot(NamedTuple):
    """A slot and its round. It is idle, claiming (has a snapshot), claimed (has locks), publishing or settling."""

    at: str = "idle"
    lost: bool = False
    """It was frozen, and PostgreSQL ended its session; it does not know yet."""
    probe: bool = False
    """It may try whether the broker is back."""
    asked: tuple[int, ...] = ()
    cut: int = 0
    snapshot: Snapshot = Snapshot()
    lanes: tuple[Claimed, ...] = ()
    alone: bool = False
    """The claim asked for one lane only."""
    xid: int = 0
    returning: tuple[tuple[int, int], ...] = ()
    """Dead letters whose followers come back, with the mark that the fetch saw."""
    xmin: int = 0
    got: tuple[Got, ...] = ()
    topics: tuple[tuple[str, bool, int], ...] = ()
    todo: tuple[tuple[Batch, ...], ...] = ()
    """Per partition, the batches still to send."""
    outcomes: tuple[Outcome, ...] = ()
    others_answered: bool = False
    due: bool = True
    """The settle may write lanes."""
    wanted: tuple[int, ...] = ()
    """Rows of topics still to be locked, in this order."""
    locked: tuple[int, ...] = ()


IDLE = Slot()


class Process(NamedTuple):
    """A relay: what its slots know together."""

    slots: tuple[Slot, ...]
    failing: bool = False
    probing: bool = False
    one_by_one: tuple[tuple[int, str], ...] = ()


class Left(NamedTuple):
    """How many faults and acts may still happen."""

    crashes: int = 0
    freezes: int = 0
    timeouts: int = 0
    outages: int = 0
    acts: int = 0


class State(NamedTuple):
    """The world."""

    writers: tuple[Writer, ...]
    next_xid: int
    completed: int
    """The latest xid that ended; kept only where a rule that is off reads it."""
    messages: tuple[Message, ...]
    """Ids drawn so far; id n is at n - 1."""
    committed: tuple[int, ...]
    """In commit order, as far as messages of one (topic, key) are concerned."""
    lanes: tuple[LaneRow, ...]
    owed: frozenset[int]
    parked: frozenset[Parked]
    dead: tuple[DeadLetter, ...]
    topics: tuple[TopicRow, ...]
    unapplied: tuple[tuple[int, str, tuple[int, ...]], ...]
    """A topic, its new policy that is not yet applied to its dead letters, and which of them were undecided then."""
    reached: frozenset[int]
    """What Kafka has."""
    late: frozenset[Batch]
    """Batches of dead processes and abandoned producers; each may still arrive at any time, or never."""
    processes: tuple[Process, ...]
    moment: int
    """Counts what `returning_at` would tell apart."""
    broken: str
    """How Kafka got what it should not have got."""
    left: Left

    def message(self, number: int) -> Message:
        """What is known of an id."""
        return self.messages[number - 1]

    def same_key(self, one: int, other: int) -> bool:
        """Are they of one (topic, key)?"""
        a, b = self.messages[one - 1], self.messages[other - 1]
        return a.key != "" and a.key == b.key and a.topic == b.topic

    def slots(self) -> list[Slot]:
        """All slots of all relays."""
        return [slot for process in self.processes for slot in process.slots]

    def xmin(self) -> int:
        """The oldest running transaction, or the next one."""
        running = [writer.xid for writer in self.writers if writer.xid]
        running += [slot.xid for slot in self.slots() if slot.xid]
        return min(running, default=self.next_xid)


def _changed(fields: tuple[str, ...]) -> Callable[..., Any]:
    """`_replace` for a tuple with these fields, at half the price: it does not look at fields that stay."""
    places = {name: place for place, name in enumerate(fields)}

    def replace(row: Any, /, **changes: object) -> Any:
        values = list(row)
        for name, value in changes.items():
            values[places[name]] = value
        return tuple.__new__(type(row), values)

    return replace


for _kind in (Writer, LaneRow, DeadLetter, TopicRow, Snapshot, Slot, Process, Left, State):
    _kind._replace = _changed(_kind._fields)  # type: ignore[method-assign]


def canonical(state: State) -> State:
    """One form for worlds that differ only in names: transaction ids are numbered anew, like relays stand in order."""
    used = {0, state.next_xid, state.completed}
    used.update([writer.xid for writer in state.writers], [row.mark_xid for row in state.lanes])
    for process in state.processes:
        for slot in process.slots:
            if slot is not IDLE:
                used.add(slot.xid)
                used.add(slot.xmin)
                if slot.lanes:
                    used.update([claimed.row.mark_xid for claimed in slot.lanes])
                if slot.snapshot.lanes:
                    used.update([row.mark_xid for row in slot.snapshot.lanes])
    if len(used) - 1 == state.next_xid:
        return _sorted(state, state.processes)
    new = {old: number for number, old in enumerate(sorted(used))}
    processes = tuple(
        process._replace(slots=tuple(slot if slot == IDLE else _renumber(slot, new) for slot in process.slots))
        for process in state.processes
    )
    state = state._replace(
        writers=tuple(Writer(writer.step, new[writer.xid]) for writer in state.writers),
        next_xid=new[state.next_xid],
        completed=new[state.completed],
        lanes=tuple(row._replace(mark_xid=new[row.mark_xid]) for row in state.lanes),
    )
    return _sorted(state, processes)


def _renumber(slot: Slot, new: dict[int, int]) -> Slot:
    def lane(row: LaneRow) -> LaneRow:
        return row._replace(mark_xid=new[row.mark_xid])

    return slot._replace(
        xid=new[slot.xid],
        xmin=new[slot.xmin],
        lanes=tuple(Claimed(number, lane(row)) for number, row in slot.lanes),
        snapshot=slot.snapshot._replace(lanes=tuple(map(lane, slot.snapshot.lanes))),
    )


def _sorted(state: State, processes: tuple[Process, ...]) -> State:
    in_order = tuple(sorted(map(_slots_sorted, processes)) if len(processes) > 1 else map(_slots_sorted, processes))
    return state if in_order == state.processes else state._replace(processes=in_order)


def _slots_sorted(process: Process) -> Process:
    return process if len(process.slots) == 1 else process._replace(slots=tuple(sorted(process.slots)))
