"""One round, as far as it is pure thought: what to send, what to hold, and what to record of how it ended."""

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from relay.floor import Lane, Round, advance, moved
from relay.outcomes import (
    BatchRefused,
    Delivered,
    Outcome,
    OwedMessage,
    Refused,
    TopicUnavailable,
    Unknown,
    Unsent,
    answered,
)
from relay.store import Fetched, Settlement, Topic, TopicChange

_by_id = attrgetter("id")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a fetch: `send` in this order, `held` into (or back among) the parked."""

    send: list[OwedMessage]
    held: list[OwedMessage]
    full: bool
    _lanes: dict[int, list[OwedMessage]] = field(repr=False)
    _full: frozenset[int] = field(repr=False)

    def learned(self, lane: int, xmin: int, settled: Container[int]) -> Round:
        """What the fetch and the answers say about one lane, for the rule of the floor."""
        fetched = self._lanes.get(lane, [])
        return Round(
            xmin=xmin,
            last=fetched[-1].id if fetched else None,
            owed=next((message.id for message in fetched if message.id not in settled), None),
            full=lane in self._full,
        )


def plan(fetched: Fetched, *, messages: int, size: int) -> Plan:
    """Merge each lane's lists into one list in id order, cut where one of them was cut.

    A list that hit its limit says nothing about ids above its last one; a message of the lane above that could
    overtake a parked one of its key.
    """
    lists: defaultdict[tuple[int, int | None], list[OwedMessage]] = defaultdict(list)
    for message in fetched.messages:
        lists[message.lane, message.behind].append(message)
    horizon: dict[int, int] = {}
    full_lanes = set()
    for (lane, behind), members in lists.items():
        members.sort(key=_by_id)
        if len(members) >= messages or sum(message.size for message in members) >= size:
            horizon[lane] = min(horizon.get(lane, members[-1].id), members[-1].id)
            if behind is None:
                full_lanes.add(lane)
    taken = fetched.messages
    if len(lists) > len({lane for lane, _ in lists}):  # some lane has parked messages too
        taken = [m for m in taken if m.lane not in horizon or m.id <= horizon[m.lane]]
    taken = sorted(taken, key=_by_id)
    return Plan(
        send=[message for message in taken if message.held is None],
        held=[message for message in taken if message.held is not None],
        full=bool(horizon),
        _lanes={lane: members for (lane, behind), members in lists.items() if behind is None},
        _full=frozenset(full_lanes),
    )


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a round ended: what to record, and what this process should know.

    `repeats`: messages that may have reached the topic and will be sent again. `one_by_one`: lanes and topics with a
    refused batch, whose messages must go singly in their next claim. `silent`: why the broker counts as down, if so.
    """

    settlement: Settlement
    answered: bool
    repeats: int
    one_by_one: frozenset[tuple[int, str]]
    silent: str | None


def conclude(
    plan: Plan,
    lanes: Sequence[Lane],
    fetched: Fetched,
    outcomes: Sequence[Outcome],
    *,
    others_answered: bool,
    refusals_to_close: int,
    due: Callable[[Lane, Lane], bool],
) -> Conclusion:
    """Turn the outcomes into what the settle records.

    `others_answered`: the broker answered another slot while this one waited, so silence is a topic's matter.
    `due` decides whether a lane's row is worth writing.
    """
    settlement = Settlement(
        parked=[message for message in plan.held if message.behind is None],
        reparked=[message for message in plan.held if message.behind is not None],
        returning=fetched.returning,
    )
    broker_answered = others_answered or answered(outcomes)
    topics: dict[str, TopicChange] = {}
    silent: str | None = None
    repeats = 0
    one_by_one = set()

    def change(topic: str, **what: object) -> None:
        topics[topic] = replace(topics.get(topic, TopicChange()), **what)  # type: ignore[arg-type]  # its own fields

    refused: defaultdict[str, list[Refused]] = defaultdict(list)
    for outcome in outcomes:
        match outcome:
            case Delivered(messages):
                settlement.delivered.append(outcome)
                if messages[0].topic in fetched.topics:
                    change(messages[0].topic, confirmed=True)
            case Refused(message):
                refused[message.topic].append(outcome)
            case BatchRefused(messages):
                one_by_one |= {(message.lane, message.topic) for message in messages}
            case TopicUnavailable(topic, _, reason):
                change(topic, reason=reason)
            case Unknown(messages, reason, answered=told):
                repeats += len(messages)
                if not told and broker_answered:
                    change(messages[0].topic, reason=reason)
                elif not told:
                    silent = reason
            case Unsent():
                pass
    for topic, letters in refused.items():
        before = fetched.topics.get(topic, Topic(closed=False, refused_in_a_row=0)).refused_in_a_row
        if before + len(letters) >= refusals_to_close:
            change(topic, reason=f"{refusals_to_close} messages refused in a row, last: {letters[-1].reason}")
        else:
            settlement.refused.extend(letters)
            change(topic, refused=len(letters))
    settlement.topics = topics
    settlement.lanes = _lanes(plan, lanes, fetched, settlement, due)
    return Conclusion(
        settlement=settlement,
        answered=bool(outcomes) and broker_answered,
        repeats=repeats,
        one_by_one=frozenset(one_by_one),
        silent=silent,
    )


def _lanes(
    plan: Plan, lanes: Sequence[Lane], fetched: Fetched, settlement: Settlement, due: Callable[[Lane, Lane], bool]
) -> list[Lane]:
    """The rows of `outbox_lanes` that must, or may as well, be written."""
    settled = {message.id for batch in settlement.delivered for message in batch.messages}
    settled |= {letter.message.id for letter in settlement.refused}
    settled |= {message.id for message in settlement.parked}
    behind_topic = {message.lane for message in settlement.parked if message.held == 0}
    came_back = {message.lane for message in fetched.messages if message.behind == 0}
    result = []
    for lane in lanes:
        after = advance(lane, plan.learned(lane.lane, fetched.xmin, settled))
        parked_changed = lane.lane in came_back or (lane.lane in behind_topic and not lane.has_parked)
        if parked_changed or (moved(lane, after) > 0 and due(lane, after)):
            result.append(after)
    return result
