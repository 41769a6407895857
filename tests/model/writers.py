"""Writers, as `app.outbox.writer` and the default of the id column have them do."""

from tests.model.configuration import Text
from tests.model.state import Message, State
from tests.model.world import Move, Moves, World


def steps(world: World, state: State) -> Moves:
    """All that a writer can do next."""
    for number, writer in enumerate(state.writers):
        script = world.scripts[number]
        if 0 <= writer.step < len(script):
            yield from _next(world, state, number)
            if world.config.aborts and writer.step and script[writer.step].what != "all":
                yield Move(f"W{number} rolls back", _finish(world, state, number, -1))


def _next(world: World, state: State, number: int) -> Moves:
    writer, name = state.writers[number], f"W{number}"
    step = world.scripts[number][writer.step]
    after = _at(state, number, writer.step + 1)
    if waits_for(world, state, number) is not None:
        return
    match step.what:
        case "lock":
            yield Move(f"{name} locks key {min(step.keys)}", after)
        case "xid":
            yield Move(f"{name} has its xid", _with_xid(after, number))
        case "draw":
            yield Move(f"{name} draws id {len(state.messages) + 1}", _draw(world, after, number, step.texts))
        case "insert":
            yield Move(f"{name} inserts", _with_xid(after, number))
        case "all":
            yield _commit(_draw(world, after, number, step.texts), number)
        case _:
            yield _commit(_finish(world, state, number, writer.step + 1), number)


def waits_for(world: World, state: State, number: int) -> int | None:
    """The writer that has a lock which this one needs next."""
    writer, script = state.writers[number], world.scripts[number]
    needed = script[writer.step].keys if 0 <= writer.step < len(script) else ()
    if needed:
        for other, theirs in enumerate(state.writers):
            steps_taken = world.scripts[other][: theirs.step] if 0 <= theirs.step < len(world.scripts[other]) else ()
            if other != number and any(not step.keys.isdisjoint(needed) for step in steps_taken):
                return other
    return None


def finished(world: World, state: State) -> bool:
    """Has every writer committed or rolled back?"""
    return all(writer.step in {-1, len(script)} for writer, script in zip(state.writers, world.scripts, strict=True))


def _at(state: State, number: int, step: int) -> State:
    writers = state.writers
    return state._replace(writers=(*writers[:number], writers[number]._replace(step=step), *writers[number + 1 :]))


def _with_xid(state: State, number: int) -> State:
    """A transaction gets its id when it first needs one."""
    writers = state.writers
    if writers[number].xid:
        return state
    return state._replace(
        writers=(*writers[:number], writers[number]._replace(xid=state.next_xid), *writers[number + 1 :]),
        next_xid=state.next_xid + 1,
    )


def _draw(world: World, state: State, number: int, texts: tuple[Text, ...]) -> State:
    drawn = (Message(number, key, topic, world.config.lane_of(key), bad) for key, topic, bad in texts)
    return state._replace(messages=(*state.messages, *drawn))


def _finish(world: World, state: State, number: int, step: int) -> State:
    xid = state.writers[number].xid
    state = _at(state, number, step)
    writers = state.writers
    ended = (*writers[:number], writers[number]._replace(xid=0), *writers[number + 1 :])
    return world.end_transaction(state._replace(writers=ended), xid)


def _commit(state: State, number: int) -> Move:
    """The rows become visible. Of the order of commits only that within a (topic, key) is kept."""
    ids = [i for i, message in enumerate(state.messages, 1) if message.writer == number]
    order = sorted((*state.committed, *ids), key=lambda i: (state.message(i).topic, state.message(i).key))
    after = state._replace(owed=state.owed.union(ids), committed=tuple(order))
    return Move(f"W{number} commits {', '.join(map(str, ids))}", after)
