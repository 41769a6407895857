"""A slot's round, as `relay.slot` has it: look, claim, fetch, publish, settle; and what may happen to it."""

from collections.abc import Iterable

from relay.breaker import Permit
from tests.model import database
from tests.model.rules import Rule
from tests.model.state import IDLE, Batch, Claimed, Outcome, Slot, State
from tests.model.world import Move, Moves, World, put

_TRANSACTION = {"claimed", "publishing", "settling"}


def steps(world: World, state: State) -> Moves:
    """All that the slots can do next."""
    working: list[int] | None = None
    for p, process in enumerate(state.processes):
        if p and process == state.processes[p - 1]:
            continue  # two alike: what one can do, the other can
        for s, slot in enumerate(process.slots):
            if s and slot == process.slots[s - 1]:
                continue
            if slot.at == "idle" and working is None:
                working = database.look(world, state)
            yield from _step(world, state, p, s, working or [])
            if slot.at in _TRANSACTION:
                yield from _faults(world, state, p, s)


def _step(world: World, state: State, p: int, s: int, working: list[int]) -> Moves:
    slot = state.processes[p].slots[s]
    match slot.at:
        case "idle":
            yield from _look(world, state, p, s, working)
        case "claiming":
            yield _claim(world, state, p, s)
        case "claimed":
            yield _fetch(world, state, p, s)
        case "publishing" if slot.todo:
            yield from _publish(world, state, p, s)
        case "publishing":
            yield from _conclude(world, state, p, s)
        case _:
            yield from _lock_topic(world, state, p, s)


def _name(state: State, p: int, s: int) -> str:
    return f"R{p}" if len(state.processes[p].slots) == 1 else f"R{p}.{s}"


def _look(world: World, state: State, p: int, s: int, working: list[int]) -> Moves:
    """Ask the breaker, look, and start the claim's statement: what has work, or a floor that is behind."""
    name = _name(state, p, s)
    process, config = state.processes[p], world.config
    permit, probing = world.product.permit(failing=process.failing, probing=process.probing)
    if permit is Permit.REST:
        return
    lanes = working
    if not lanes and config.unclaimed:
        lanes = [lane for lane, row in enumerate(state.lanes) if max(row.seen, row.mark) > row.floor]
    if not lanes:
        return
    asking = slot = Slot(
        at="claiming",
        cut=config.cut,
        snapshot=database.snapshot(world, state),
    )
    if permit is Permit.PROBE:
        for lane in lanes:
            asking = slot._replace(asked=(lane,), alone=True, probe=True, cut=1)
            yield Move(f"{name} probes the broker with lane {lane}", put(state, p, s, asking, probing=probing))
        return
    for lane in lanes:
        asking = slot._replace(asked=(lane,), alone=True)
        yield Move(f"{name} starts to claim lane {lane}", put(state, p, s, asking))
    if len(lanes) > 1 or config.topics_close:
        asking = slot._replace(asked=tuple(lanes))
        yield Move(f"{name} starts to claim all lanes with work", put(state, p, s, asking))


def _claim(world: World, state: State, p: int, s: int) -> Move:
    """CLAIM: lock what nobody holds, and read the newest rows."""
    name = _name(state, p, s)
    slot = state.processes[p].slots[s]
    held = held_lanes(state) if world.on(Rule.LANE_LOCK) else []
    rows = state.lanes if world.on(Rule.LOCKED_ROW) else slot.snapshot.lanes
    lanes = tuple(Claimed(n, rows[n]) for n in slot.asked if n not in held)
    if not lanes:
        return Move(f"{name} finds the lanes locked", _rest(world, state, p, s))
    claimed = slot._replace(at="claimed", asked=(), lanes=lanes, xid=state.next_xid)
    numbers = ", ".join(str(each.lane) for each in lanes)
    return Move(f"{name} locks lane {numbers}", put(state._replace(next_xid=state.next_xid + 1), p, s, claimed))


def _fetch(world: World, state: State, p: int, s: int) -> Move:
    """FETCH; then `relay.delivery.plan`."""
    name = _name(state, p, s)
    slot = state.processes[p].slots[s]
    if slot.lost:
        return Move(f"{name} finds its session gone", _rest(world, state, p, s))
    slot = database.fetch(world, state, slot)._replace(at="publishing", snapshot=IDLE.snapshot)
    planned = world.product.plan(state.messages, slot)
    slot = slot._replace(todo=_batches(world, state, p, slot, planned.send))
    label = f"{name} fetches; to send: {_list(planned.send)}; held: {_list(planned.held)}"
    return Move(label, put(state, p, s, slot))


def _batches(world: World, state: State, p: int, slot: Slot, send: tuple[int, ...]) -> tuple[tuple[Batch, ...], ...]:
    """Per partition, in id order. A topic is one partition here."""
    lanes = {each.lane for each in slot.lanes}
    singly = {topic for lane, topic in state.processes[p].one_by_one if lane in lanes}
    parts = []
    for topic in sorted({state.message(number).topic for number in send}):
        ids = [number for number in send if state.message(number).topic == topic]
        size = 1 if topic in singly else world.config.batch
        parts.append(tuple(tuple(ids[start : start + size]) for start in range(0, len(ids), size)))
    return tuple(parts)


def _publish(world: World, state: State, p: int, s: int) -> Moves:
    """The next batch has its answer, or none. Partitions do not touch each other, so their order does not matter."""
    name = _name(state, p, s)
    slot, left = state.processes[p].slots[s], state.left
    batch = slot.todo[0][0]
    topic = state.message(batch[0]).topic
    ids = _list(batch)
    if any(state.message(number).bad for number in batch):
        kind = "Refused" if len(batch) == 1 else "BatchRefused"
        label = f"{name}: {ids} is refused" if len(batch) == 1 else f"{name}: batch {ids} is refused"
        yield Move(label, put(state, p, s, _answered(world, slot, Outcome(kind, batch))))
    else:
        answered = _answered(world, slot, Outcome("Delivered", batch))
        yield Move(f"{name}: {ids} confirmed", put(world.arrive(state, batch), p, s, answered))
        if left.timeouts:
            failed = state._replace(left=left._replace(timeouts=left.timeouts - 1), late=state.late | {batch})
            for kind in ("Unknown", "Broken"):
                label = f"{name}: {ids} has no answer" if kind == "Unknown" else f"{name}: {ids}, producer broken"
                yield Move(label, put(failed, p, s, _answered(world, slot, Outcome(kind, batch))), outside=True)
    if left.outages and topic in world.config.unavailable:
        failed = state._replace(left=left._replace(outages=left.outages - 1))
        answered = _answered(world, slot, Outcome("TopicUnavailable", batch))
        yield Move(f"{name}: topic {topic} takes nothing", put(failed, p, s, answered), outside=True)


def _answered(world: World, slot: Slot, outcome: Outcome) -> Slot:
    """After the first batch that was not confirmed, its partition gets no other."""
    (_, *later), *others = slot.todo
    goes_on = outcome.kind == "Delivered"
    goes_on |= outcome.kind == "Refused" and not world.on(Rule.STOP_AT_REFUSAL)
    goes_on |= outcome.kind in {"Unknown", "Broken"} and not world.on(Rule.STOP_AT_SILENCE)
    outcomes = [outcome]
    if later and not goes_on:
        outcomes.append(Outcome("Unsent", tuple(number for batch in later for number in batch)))
        later = []
    todo = (tuple(later), *others) if later else tuple(others)
    return slot._replace(todo=todo, outcomes=(*slot.outcomes, *outcomes))


def _conclude(world: World, state: State, p: int, s: int) -> Moves:
    """`relay.delivery.conclude`, then the settle: at once, or after waiting for rows of topics."""
    name = _name(state, p, s)
    for due in (True, False) if world.config.rarely else (True,):
        slot = state.processes[p].slots[s]
        ended = world.product.conclude(state.messages, slot, xmin=_xmin(world, state, slot), due=due)
        learned = _learn(world, state, p, s, slot)
        if slot.lost:
            yield Move(f"{name} cannot settle", _rest(world, learned, p, s))
            return
        rows = [world.config.topics.index(topic) for topic, *_ in ended.topics]
        if not world.on(Rule.TOPICS_SORTED) and p % 2:
            rows.reverse()
        waiting = slot._replace(at="settling", wanted=tuple(rows), due=due, xmin=_xmin(world, state, slot))
        learned = put(learned, p, s, waiting)
        if rows:
            yield Move(f"{name} settles all but topics", learned)
        else:
            yield Move(f"{name} settles{'' if due else ', lanes unwritten'}", _commit(world, learned, p, s))


def _lock_topic(world: World, state: State, p: int, s: int) -> Moves:
    """Lock the next row of a topic; with the last one the settle commits."""
    name = _name(state, p, s)
    slot = state.processes[p].slots[s]
    if slot.lost:
        yield Move(f"{name} cannot settle", _rest(world, state, p, s))
    elif waits_for(state, slot) is None:
        row, rest = slot.wanted[0], slot.wanted[1:]
        locked = put(state, p, s, slot._replace(wanted=rest, locked=(*slot.locked, row)))
        label = f"{name} writes topic {world.config.topics[row]}"
        yield Move(label, locked) if rest else Move(f"{label} and commits", _commit(world, locked, p, s))


def waits_for(state: State, slot: Slot) -> Slot | None:
    """The slot that has the row of a topic which this one needs next."""
    if not slot.wanted:
        return None
    return next((other for other in state.slots() if slot.wanted[0] in other.locked), None)


def _commit(world: World, state: State, p: int, s: int) -> State:
    slot = state.processes[p].slots[s]
    ended = world.product.conclude(state.messages, slot, xmin=slot.xmin, due=slot.due)
    state = database.settle(world, state, slot, ended)
    return _rest(world, world.end_transaction(state, slot.xid), p, s)


def _xmin(world: World, state: State, slot: Slot) -> int:
    return slot.xmin if world.on(Rule.XMIN_OF_THE_FETCH) else state.xmin()


def _learn(world: World, state: State, p: int, s: int, slot: Slot) -> State:
    """`relay.shared.Shared.learn`: the broker's breaker, and what must go one by one."""
    process = state.processes[p]
    ended = world.product.conclude(state.messages, slot, xmin=slot.xmin, due=True)
    failing, probing = process.failing, process.probing
    slots = process.slots
    if ended.silent or ended.answered:
        act = "failed" if ended.silent else "answered"
        failing, probing = world.product.after(act, failing=failing, probing=probing)
    if ended.answered:
        slots = tuple(
            each._replace(others_answered=True) if each.at == "publishing" and number != s else each
            for number, each in enumerate(slots)
        )
    claimed = {each.lane for each in slot.lanes}
    settled = ended.delivered.union(ended.refused)
    sent = {number for outcome in slot.outcomes for number in outcome.ids}
    unsettled = {(state.message(number).lane, state.message(number).topic) for number in sent - settled}
    one_by_one = {pair for pair in process.one_by_one if pair[0] not in claimed or pair in unsettled}
    if world.on(Rule.SINGLY_AFTER_REFUSAL):
        one_by_one |= ended.one_by_one
    changed = process._replace(slots=slots, failing=failing, probing=probing, one_by_one=tuple(sorted(one_by_one)))
    return state._replace(processes=(*state.processes[:p], changed, *state.processes[p + 1 :]))


def _rest(world: World, state: State, p: int, s: int) -> State:
    """The round is over, well or not. A probe that learned nothing is given back (`Breaker.unused`)."""
    process = state.processes[p]
    probing = process.probing
    if process.slots[s].probe and world.on(Rule.PROBE_GIVEN_BACK):
        _, probing = world.product.after("unused", failing=process.failing, probing=probing)
    return put(state, p, s, IDLE, probing=probing)


def held_lanes(state: State) -> list[int]:
    """The lanes that are locked, once for each slot that thinks so while it has a session."""
    return [each.lane for slot in state.slots() if not slot.lost for each in slot.lanes]


def _faults(world: World, state: State, p: int, s: int) -> Moves:
    """What it has on its way arrives at any later time, or never."""
    name = _name(state, p, s)
    process, left = state.processes[p], state.left
    slot = process.slots[s]
    if left.crashes and not any(each.at in _TRANSACTION for each in process.slots[:s]):
        after = state._replace(left=left._replace(crashes=left.crashes - 1))
        for each in process.slots:
            on_way = (part[0] for part in each.todo)
            sent = (batch for batch in on_way if not any(state.message(number).bad for number in batch))
            after = world.end_transaction(after._replace(late=after.late.union(sent)), 0 if each.lost else each.xid)
        alone = state.processes[:p], state.processes[p + 1 :]
        dead = process._replace(slots=(IDLE,) * len(process.slots), failing=False, probing=False, one_by_one=())
        yield Move(
            f"{name.partition('.')[0]} is killed", after._replace(processes=(*alone[0], dead, *alone[1])), outside=True
        )
    if left.freezes and not slot.lost:
        after = state._replace(left=left._replace(freezes=left.freezes - 1))
        after = world.end_transaction(after, slot.xid)
        frozen = slot._replace(lost=True, xid=0, locked=())
        yield Move(f"{name} freezes, PostgreSQL ends its session", put(after, p, s, frozen), outside=True)


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "nothing"
