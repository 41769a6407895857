"""What the statements of `relay.statements` do to the tables, each as one function, in the order of that module."""

from tests.model.product import Ended
from tests.model.rules import Rule
from tests.model.state import (
    BEHIND_TOPIC,
    CLOSED,
    CONTINUE,
    DEAD,
    FREE,
    HALF_OPEN,
    HELD_BY_TOPIC,
    IN_LANE,
    OPEN,
    PARK,
    DeadLetter,
    Got,
    Parked,
    Slot,
    Snapshot,
    State,
    TopicRow,
)
from tests.model.world import World


def probe(world: World, state: State, name: str) -> int | None:
    """_PROBES: the smallest id of a half-open topic that lies parked, but not behind an undecided dead letter."""
    row = world.topic(state, name)
    if row.paused or row.state != HALF_OPEN:
        return None
    returning = {letter.id for letter in state.dead if letter.returning}
    ids = [
        parked.id
        for parked in state.parked
        if state.message(parked.id).topic == name and (parked.behind == BEHIND_TOPIC or parked.behind in returning)
    ]
    return (min if world.on(Rule.SMALLEST_PROBES) else max)(ids, default=None)


def look(world: World, state: State) -> list[int]:
    """LOOK: the lanes that have work."""
    working = {state.message(number).lane for number in state.owed if number > _floor(state, number)}
    for parked in state.parked:
        message = state.message(parked.id)
        may_go = parked.behind == BEHIND_TOPIC and not world.topic(state, message.topic).shut
        if may_go and state.lanes[message.lane].has_parked:
            working.add(message.lane)
    for letter in state.dead:
        message = state.message(letter.id)
        if letter.returning and not world.topic(state, message.topic).shut:
            working.add(message.lane)
    for name in world.config.topics:
        number = probe(world, state, name)
        if number is not None:
            working.add(state.message(number).lane)
    return sorted(working)


def snapshot(world: World, state: State) -> Snapshot:
    """What a claim's statement sees when it starts, as far as a rule that is off reads it."""
    match world.config.off:
        case Rule.OWN_STATEMENT:
            return Snapshot(owed=tuple(sorted(state.owed)))
        case Rule.HELD_READ_LAST:
            return Snapshot(dead=state.dead, topics=state.topics)
        case Rule.LOCKED_ROW:
            return Snapshot(lanes=state.lanes)
        case _:
            return Snapshot()


def fetch(world: World, state: State, slot: Slot) -> Slot:
    """FETCH: what the claimed lanes owe and what of it is held, with the snapshot's oldest transaction and the dead
    letters that let their followers go.
    """
    owed = slot.snapshot.owed if world.config.off is Rule.OWN_STATEMENT else state.owed
    if world.config.off is Rule.HELD_READ_LAST:
        seen = state._replace(dead=slot.snapshot.dead, topics=slot.snapshot.topics)
    else:
        seen = state
    got: dict[int, int] = {}
    for lane, row in slot.lanes:
        above = sorted(number for number in owed if state.message(number).lane == lane and number > row.floor)
        got.update(dict.fromkeys(above[: slot.cut], IN_LANE))
        if row.has_parked:
            for name in world.config.topics:
                if not world.topic(seen, name).shut:
                    got.update(dict.fromkeys(_parked(seen, lane, name, BEHIND_TOPIC)[: slot.cut], BEHIND_TOPIC))
        for letter in seen.dead:
            topic = state.message(letter.id).topic
            if letter.returning and state.message(letter.id).lane == lane and not world.topic(seen, topic).shut:
                got.update(dict.fromkeys(_parked(seen, lane, topic, letter.id)[: slot.cut], letter.id))
        for name in world.config.topics:
            number = probe(world, seen, name)
            if number is not None and state.message(number).lane == lane:
                got[number] = next(parked.behind for parked in seen.parked if parked.id == number)
    rows = tuple(Got(number, _held(world, seen, number, behind), behind) for number, behind in sorted(got.items()))
    return slot._replace(
        xmin=state.completed + 1 if world.config.off is Rule.XMIN_NOT_XMAX else state.xmin(),
        got=rows,
        returning=_returning(state, {lane for lane, _ in slot.lanes}),
        topics=tuple(
            (name, row.state != OPEN, row.refused)
            for name, row in zip(world.config.topics, state.topics, strict=True)
            if row.state != OPEN or row.refused
        ),
    )


def _returning(state: State, lanes: set[int]) -> tuple[tuple[int, int], ...]:
    """Dead letters of these lanes whose followers come back, with the mark that says since when."""
    return tuple(
        (letter.id, letter.returning)
        for letter in state.dead
        if letter.returning and state.message(letter.id).lane in lanes
    )


def _parked(state: State, lane: int, topic: str, behind: int) -> list[int]:
    return sorted(
        parked.id
        for parked in state.parked
        if parked.behind == behind and state.message(parked.id).lane == lane and state.message(parked.id).topic == topic
    )


def _held(world: World, state: State, number: int, behind: int) -> int:
    """Behind the first undecided dead letter of its (topic, key), or because its topic is shut."""
    row = world.topic(state, state.message(number).topic)
    for letter in state.dead if world.on(Rule.DEAD_LETTER_HOLDS) else ():
        if letter.state == DEAD and letter.id < number and state.same_key(letter.id, number):
            waiting = not letter.returning and any(parked.behind == letter.id for parked in state.parked)
            if row.policy == PARK or (waiting and world.on(Rule.WAITING_HOLDS)):
                return letter.id
    return HELD_BY_TOPIC if behind == IN_LANE and row.shut else FREE


def settle(world: World, state: State, slot: Slot, ended: Ended) -> State:
    """All that a settle writes, in the order of `relay.settlement`; it becomes visible at once, with the commit."""
    gone = ended.delivered.union(ended.refused)
    state = state._replace(
        owed=state.owed - gone, parked=frozenset(parked for parked in state.parked if parked.id not in gone)
    )
    for number in ended.refused:
        state = _bury(world, state, number)
    state = state._replace(
        owed=state.owed.difference(each.id for each in ended.parked),
        parked=state.parked.union(Parked(each.id, max(each.held, BEHIND_TOPIC)) for each in ended.parked),
    )
    moved = {each.id: max(each.held, BEHIND_TOPIC) for each in ended.reparked}
    state = state._replace(
        parked=frozenset(parked._replace(behind=moved.get(parked.id, parked.behind)) for parked in state.parked)
    )
    state = _returned(world, state, slot.returning)
    lanes = list(state.lanes)
    for lane, row in ended.lanes:
        behind_topic = any(
            parked.behind == BEHIND_TOPIC and state.message(parked.id).lane == lane for parked in state.parked
        )
        lanes[lane] = row._replace(has_parked=behind_topic)
    topics = dict(zip(world.config.topics, state.topics, strict=True))
    for name, closes, confirmed, refused in ended.topics:
        topics[name] = _topic(topics[name], closes=closes, confirmed=confirmed, refused=refused)
    return state._replace(lanes=tuple(lanes), topics=tuple(topics.values()))


def _bury(world: World, state: State, number: int) -> State:
    """BURY: a dead letter, or the same one again, undecided."""
    again = any(letter.id == number for letter in state.dead)
    lets_go = again and world.topic(state, state.message(number).topic).policy == CONTINUE
    moment = state.moment + lets_go
    letter = DeadLetter(number, returning=moment if lets_go and world.on(Rule.MARKED_WHEN_BURIED) else 0)
    others = (each for each in state.dead if each.id != number)
    return state._replace(dead=tuple(sorted((*others, letter))), moment=moment)


def _returned(world: World, state: State, marks: tuple[tuple[int, int], ...]) -> State:
    """RETURNED: dead letters behind which nobody waits any more, or that are undecided and hold them again."""

    def done(letter: DeadLetter) -> bool:
        if not world.on(Rule.SAME_MARK):
            return letter.id in {number for number, _ in marks}
        if (letter.id, letter.returning) not in marks:
            return False
        holds = letter.state == DEAD and world.topic(state, state.message(letter.id).topic).policy == PARK
        return holds or not any(parked.behind == letter.id for parked in state.parked)

    dead = tuple(letter._replace(returning=0) if done(letter) else letter for letter in state.dead)
    return state._replace(dead=dead)


def _topic(row: TopicRow, *, closes: bool, confirmed: bool, refused: int) -> TopicRow:
    """TOPICS: closed (again), or open because a message was confirmed; refusals counted."""
    if closes:
        now = CLOSED
    elif confirmed:
        now = OPEN
    else:
        now = row.state
    return row._replace(state=now, refused=refused if confirmed else row.refused + refused)


def _floor(state: State, number: int) -> int:
    return state.lanes[state.message(number).lane].floor
