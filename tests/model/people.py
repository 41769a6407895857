"""What time and people do: pauses end, late batches arrive, operators decide."""

from tests.model.rules import Rule
from tests.model.state import CLOSED, CONTINUE, DEAD, DISCARDED, HALF_OPEN, RETRIED, DeadLetter, Parked, State, TopicRow
from tests.model.world import Move, Moves, World


def steps(world: World, state: State) -> Moves:
    """All that can come from outside the writers and the slots."""
    for batch in state.late:
        late = world.arrive(state._replace(late=state.late - {batch}), batch)
        yield Move(f"a late batch arrives: {', '.join(map(str, batch))}", late, outside=True)
    locked = {row for slot in state.slots() for row in slot.locked}
    for number, (name, row) in enumerate(zip(world.config.topics, state.topics, strict=True)):
        if row.state == CLOSED:
            yield Move(f"the pause of topic {name} is over", _with_topic(state, number, row._replace(state=HALF_OPEN)))
    for change in state.unapplied:
        label = f"the policy {change[1]} of topic {world.config.topics[change[0]]} is applied"
        yield Move(label, _apply(world, state, change))
    if state.left.acts:
        acted = state._replace(left=state.left._replace(acts=state.left.acts - 1))
        yield from _decide(world, acted)
        for number in range(len(state.topics)):
            if number not in locked:
                yield from _change(world, acted, number)


def _decide(world: World, state: State) -> Moves:
    """`operators.retry` and `discard`."""
    for letter in state.dead:
        if letter.state == DEAD:
            yield Move(f"an operator discards {letter.id}", _decided(state, letter, DISCARDED), outside=True)
            retried = _decided(state, letter, RETRIED)
            retried = retried._replace(parked=retried.parked | {Parked(letter.id, letter.id)})
            if world.config.mends:
                mended = state.message(letter.id)._replace(bad=False)
                messages = (*state.messages[: letter.id - 1], mended, *state.messages[letter.id :])
                retried = retried._replace(messages=messages)
            yield Move(f"an operator retries {letter.id}", retried, outside=True)


def _decided(state: State, letter: DeadLetter, what: str) -> State:
    decided = letter._replace(state=what, returning=state.moment + 1)
    dead = tuple(decided if each is letter else each for each in state.dead)
    return state._replace(dead=dead, moment=state.moment + 1)


def _change(world: World, state: State, number: int) -> Moves:
    """`operators.pause`, `resume` and `set_policy`."""
    name, row = world.config.topics[number], state.topics[number]
    if name in world.config.pausable and not row.paused:
        paused = _with_topic(state, number, row._replace(paused=True))
        yield Move(f"an operator pauses topic {name}", paused, outside=True)
    if row.shut or row.refused:
        yield Move(f"an operator resumes topic {name}", _with_topic(state, number, TopicRow(row.policy)), outside=True)
    for policy in world.config.policies:
        if policy != row.policy and not state.unapplied:
            if world.on(Rule.APPLIED_LATER):
                changed = _with_topic(state, number, row._replace(policy=policy))
                label = f"an operator sets the policy of topic {name} to {policy}"
            else:
                changed = state
                label = f"an operator marks dead letters for the policy {policy} of topic {name}"
            marks = tuple(letter.id for letter in _undecided(state, number, world))
            yield Move(label, changed._replace(unapplied=((number, policy, marks),)), outside=True)


def _apply(world: World, state: State, change: tuple[int, str, tuple[int, ...]]) -> State:
    """`operators.apply_policy`. With the rule off, this is the commit of a transaction that did both."""
    number, policy, marks = change
    letters = _undecided(state, number, world)
    if not world.on(Rule.APPLIED_LATER):
        state = _with_topic(state, number, state.topics[number]._replace(policy=policy))
        letters = [letter for letter in letters if letter.id in marks]
    returning = state.moment + 1 if policy == CONTINUE else 0
    dead = tuple(letter._replace(returning=returning) if letter in letters else letter for letter in state.dead)
    return state._replace(dead=dead, moment=max(state.moment, returning), unapplied=())


def _undecided(state: State, number: int, world: World) -> list[DeadLetter]:
    topic = world.config.topics[number]
    return [letter for letter in state.dead if letter.state == DEAD and state.message(letter.id).topic == topic]


def _with_topic(state: State, number: int, row: TopicRow) -> State:
    return state._replace(topics=(*state.topics[:number], row, *state.topics[number + 1 :]))
