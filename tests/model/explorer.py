"""Visits every world that can be reached, breadth first, so that a counterexample is a shortest one."""

from array import array
from dataclasses import dataclass

from tests import collector
from tests.model import people, promise, slots, writers
from tests.model.configuration import Config
from tests.model.state import State, canonical
from tests.model.world import Moves, World

_STUCK = "stuck: even without faults and operators it never comes to rest"


@dataclass(frozen=True)
class Explored:
    """What was found. `broken` is empty when the promise holds; `steps` lead to where it breaks."""

    states: int
    moves: int
    broken: str
    steps: tuple[str, ...]


def successors(world: World, state: State) -> Moves:
    """All that can happen next."""
    yield from writers.steps(world, state)
    yield from slots.steps(world, state)
    yield from people.steps(world, state)


def explore(config: Config) -> Explored:
    """Visit all worlds of a configuration, or stop at the first one that breaks the promise."""
    # Worlds have no cycles, and whoever looks for some walks over all worlds, again and again.
    with collector.at_rest():
        return _Exploration(World(config)).run()


class _Exploration:
    def __init__(self, world: World) -> None:
        self._world = world
        self._states = [canonical(world.start())]
        self._numbers = {self._states[0]: 0}
        self._parents = array("l", [-1])
        self._froms, self._tos = array("l"), array("l")
        """Moves that need neither a fault nor an operator: what must lead to rest."""
        self._moves = 0

    def run(self) -> Explored:
        world, rests = self._world, list[int]()
        for number, state in enumerate(self._states):  # the list grows while it is read
            for move in successors(world, state):
                self._moves += 1
                after = canonical(move.state)
                known = self._numbers.setdefault(after, len(self._states))
                if known == len(self._states):
                    self._states.append(after)
                    self._parents.append(number)
                    broken = promise.broken(world, after)
                    if broken:
                        return self._found(broken, known)
                if not move.outside:
                    self._froms.append(number)
                    self._tos.append(known)
            if promise.at_rest(world, state):
                rests.append(number)
        restless = self._restless(rests)
        return Explored(len(self._states), self._moves, "", ()) if restless < 0 else self._found(_STUCK, restless)

    def _restless(self, rests: list[int]) -> int:
        """The first state from which no moves lead to rest, or -1."""
        before: list[list[int]] = [[] for _ in self._states]
        for source, target in zip(self._froms, self._tos, strict=True):
            before[target].append(source)
        good = bytearray(len(self._states))
        queue = rests[:]
        while queue:
            number = queue.pop()
            if not good[number]:
                good[number] = 1
                queue += before[number]
        return good.find(0)

    def _found(self, broken: str, number: int) -> Explored:
        """The way from the start to this state, taken again: on the way here relays changed places and names."""
        path = []
        while number > 0:
            path.append(self._states[number])
            number = self._parents[number]
        steps, state = [], self._world.start()
        for target in reversed(path):
            label, state, _ = next(m for m in successors(self._world, state) if canonical(m.state) == target)
            steps.append(label)
        return Explored(len(self._states), self._moves, broken, tuple(steps))
