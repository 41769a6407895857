"""What the steps have in common: a configuration with its product code, and how a step is written down."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.configuration import Config, Step
from tests.model.product import Product
from tests.model.rules import Rule
from tests.model.state import CONTINUE, IDLE, LaneRow, Process, Slot, State, TopicRow, Writer


class Move(NamedTuple):
    """A step that can be taken. Faults and operators' acts come from outside; without them all must come to rest."""

    label: str
    state: State
    outside: bool = False


Moves = Iterator[Move]


@dataclass(frozen=True)
class World:
    """A configuration, ready to be explored."""

    config: Config
    scripts: tuple[tuple[Step, ...], ...] = field(init=False)
    product: Product = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        object.__setattr__(self, "scripts", tuple(one.script(config.off) for one in config.writes))
        object.__setattr__(self, "product", Product(config))

    def on(self, rule: Rule) -> bool:
        """Is the rule on?"""
        return self.config.off is not rule

    def topic(self, state: State, name: str) -> TopicRow:
        """The row of a topic."""
        return state.topics[self.config.topics.index(name)]

    def start(self) -> State:
        """Nothing has happened yet."""
        config = self.config
        return State(
            writers=(Writer(),) * len(config.writes),
            next_xid=1,
            completed=0,
            messages=(),
            committed=(),
            lanes=(LaneRow(),) * config.lanes,
            owed=frozenset(),
            parked=frozenset(),
            dead=(),
            topics=(TopicRow(config.policies[0]),) * len(config.topics),
            unapplied=(),
            reached=frozenset(),
            late=frozenset(),
            processes=tuple(Process((IDLE,) * slots) for slots in config.relays),
            moment=0,
            broken="",
            left=config.left,
        )

    def end_transaction(self, state: State, xid: int) -> State:
        """A transaction id is no longer running."""
        if self.config.off is Rule.XMIN_NOT_XMAX and xid:
            return state._replace(completed=max(state.completed, xid))
        return state

    def arrive(self, state: State, batch: tuple[int, ...]) -> State:
        """A batch reaches its topic. Only first occurrences matter, and only they are kept."""
        for number in batch:
            if number not in state.committed:
                return state._replace(broken=f"invented: message {number} reached its topic and was never committed")
            if number in state.reached:
                if state.left[:3] == self.config.left[:3]:
                    state = state._replace(broken=f"repeated: message {number}, though nothing failed")
                continue
            for earlier in state.committed[: state.committed.index(number)]:
                if state.same_key(earlier, number) and not self._may_be_overtaken(state, earlier):
                    broken = f"order: {number} reached the topic before {earlier}, committed earlier under the same key"
                    state = state._replace(broken=broken)
            state = state._replace(reached=state.reached | {number})
        return state

    def _may_be_overtaken(self, state: State, number: int) -> bool:
        if number in state.reached:
            return True
        letter = next((each for each in state.dead if each.id == number), None)
        return letter is not None and (letter.state == "discarded" or CONTINUE in self.config.policies)


def put(state: State, process: int, slot: int, new: Slot, *, probing: bool | None = None) -> State:
    """The state with this slot changed, and with what its process knows of a probe."""
    old = state.processes[process]
    changed = old._replace(
        slots=(*old.slots[:slot], new, *old.slots[slot + 1 :]), probing=old.probing if probing is None else probing
    )
    return state._replace(processes=(*state.processes[:process], changed, *state.processes[process + 1 :]))
