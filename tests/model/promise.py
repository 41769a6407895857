"""What must hold in every world that can be reached, and when a world has come to rest."""

from tests.model import database, slots, writers
from tests.model.state import DEAD, HALF_OPEN, IDLE, PARK, RETRIED, Parked, State
from tests.model.world import World


def broken(world: World, state: State) -> str:
    """How the promise is broken in this state: something lost, stranded, doubled, overtaken, two holders, a deadlock.

    What should not reach Kafka is seen when it does (`World.arrive`). Empty if all is well.
    """
    return state.broken or _misplaced(state) or _held_twice(state) or _deadlock(world, state)


def _misplaced(state: State) -> str:
    for number in state.owed:
        floor = state.lanes[state.message(number).lane].floor
        if number <= floor:
            return f"stranded: message {number} is owed, but not above the floor {floor}"
    parked = {each.id for each in state.parked}
    for number in state.committed:
        if number in parked:
            if number in state.owed:
                return f"doubled: message {number} lies in the lane and among the parked"
        elif number not in state.owed and number not in state.reached and not _dead(state, number):
            return f"lost: message {number}"
    return ""


def _dead(state: State, number: int) -> bool:
    return any(letter.id == number and letter.state != RETRIED for letter in state.dead)


def _held_twice(state: State) -> str:
    held = slots.held_lanes(state)
    return "two slots hold one lane" if len(held) != len(set(held)) else ""


def _deadlock(world: World, state: State) -> str:
    """Does somebody wait, directly or not, for itself?"""
    for number in range(len(state.writers)):
        seen, other = {number}, writers.waits_for(world, state, number)
        while other is not None and other not in seen:
            seen.add(other)
            other = writers.waits_for(world, state, other)
        if other is not None:
            return "deadlock: writers wait for each other's keys"
    for slot in state.slots():
        if slot.wanted and slot.locked:
            holder = slots.waits_for(state, slot)
            if holder is not None and slots.waits_for(state, holder) == slot:
                return "deadlock: two settles wait for each other's topics"
    return ""


def at_rest(world: World, state: State) -> bool:
    """Nothing is left to do, and what lies parked does so rightly."""
    return (
        not state.owed
        and not state.unapplied
        and writers.finished(world, state)
        and all(slot == IDLE for slot in state.slots())
        and all(_rightly_parked(world, state, each) for each in state.parked)
    )


def _rightly_parked(world: World, state: State, parked: Parked) -> bool:
    """Its topic is paused, or closed because it refuses what it is tried with, or a dead letter holds the key."""
    topic = state.message(parked.id).topic
    row = world.topic(state, topic)
    if row.paused:
        return True
    dead = (letter.id for letter in state.dead if letter.state == DEAD and letter.id < parked.id)
    if row.policy == PARK and any(state.same_key(number, parked.id) for number in dead):
        return True
    half_open = tuple(each._replace(state=HALF_OPEN) for each in state.topics)
    tried = database.probe(world, state._replace(topics=half_open), topic)
    return row.shut and tried is not None and state.message(tried).bad
