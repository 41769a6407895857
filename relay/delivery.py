"""One round, as far as it is pure thought: what to send, what to hold, and what to record of how it ended."""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from relay.floor import Lane, Round, advance, most, moved
from relay.outcomes import (
    BatchRefused,
    Delivered,
    Outcome,
    OwedMessage,
    Refused,
    TopicUnavailable,
    Unknown,
    answered,
)
from relay.settlement import Settlement, TopicChange
from relay.store import Fetched

_by_id = attrgetter("id")


@dataclass(slots=True)
class Plan:
    """What to do with a fetch: `send` in this order, `held` into (or back among) the parked.

    `full`: some list was cut, so there is more. `probe`: a lane with the probe of a half-open topic, left out here.
    """

    send: list[OwedMessage]
    held: list[OwedMessage]
    full: bool
    probe: int | None
    _lanes: dict[int, list[OwedMessage]] = field(repr=False)
    _full: frozenset[int] = field(repr=False)

    def last(self, lane: int) -> int | None:
        """The largest id that was fetched from one lane, if any was."""
        fetched = self._lanes.get(lane)
        return fetched[-1].id if fetched else None

    def learned(self, lane: int, xmin: int, settled: Container[int] | None) -> Round:
        """What the fetch and the answers say about one lane, for the rule of the floor. `settled` None: all of it."""
        fetched = self._lanes.get(lane, [])
        return Round(
            xmin=xmin,
            last=self.last(lane),
            owed=None if settled is None else next((m.id for m in fetched if m.id not in settled), None),
            full=lane in self._full,
        )


def plan(fetched: Fetched, *, messages: int, size: int, probes: bool) -> Plan:
    """Merge each lane's lists into one list in id order, cut where one of them was cut.

    A list that hit its limit says nothing about ids above its last one; a message of the lane above that could
    overtake a parked one of its key. Without `probes`, the probes of half-open topics stay parked: they may take
    until the deadline, and all lanes of the round would wait for them.
    """
    taken = sorted(fetched.messages, key=_by_id)
    lists: defaultdict[tuple[int, int | None, str | None], list[OwedMessage]] = defaultdict(list)
    for message in taken:
        lists[message.lane, message.behind, message.topic if message.behind == 0 else None].append(message)
    horizon: dict[int, int] = {}
    full_lanes = set()
    for (lane, behind, _), members in lists.items():
        if len(members) >= messages or sum([len(message.payload or b"") for message in members]) >= size:
            horizon[lane] = min(horizon.get(lane, members[-1].id), members[-1].id)
            if behind is None:
                full_lanes.add(lane)
    if len(lists) > len({lane for lane, *_ in lists}):  # some lane has parked messages too
        taken = [m for m in taken if m.lane not in horizon or m.id <= horizon[m.lane]]
    send = [message for message in taken if message.held is None]
    left_out = [] if probes or not fetched.topics else [message for message in send if _is_probe(message, fetched)]
    return Plan(
        send=[message for message in send if message not in left_out] if left_out else send,
        held=[message for message in taken if message.held is not None],
        full=bool(horizon),
        probe=left_out[0].lane if left_out else None,
        _lanes={lane: members for (lane, behind, _), members in lists.items() if behind is None},
        _full=frozenset(full_lanes),
    )


def _is_probe(message: OwedMessage, fetched: Fetched) -> bool:
    """Is it one that tries whether a closed topic takes messages again?"""
    state = fetched.topics.get(message.topic)
    return message.behind is not None and state is not None and state.closed


@dataclass(slots=True)
class Conclusion:
    """How a round ended: what to record, and what this process should know.

    `repeats`: messages that may have reached the topic and will be sent again. `one_by_one`: lanes and topics with a
    refused batch, whose messages must go singly in their next claim. `silent`: why the broker counts as down, if so.
    """

    settlement: Settlement
    answered: bool
    repeats: int = 0
    one_by_one: frozenset[tuple[int, str]] = frozenset()
    silent: str | None = None


def conclude(
    plan: Plan,
    lanes: Sequence[Lane],
    fetched: Fetched,
    outcomes: Sequence[Outcome],
    *,
    others_answered: bool,
    refusals_to_close: int,
    due: Callable[[int, int], bool],
) -> Conclusion:
    """Turn the outcomes into what the settle records.

    `others_answered`: the broker answered another slot while this one waited, so silence is a topic's matter.
    `due` decides whether a lane's row is worth writing when it moves by so many ids.
    """
    settlement = Settlement(
        delivered=[outcome for outcome in outcomes if isinstance(outcome, Delivered)],
        parked=[message for message in plan.held if message.behind is None],
        reparked=[message for message in plan.held if message.behind is not None],
        returning=fetched.returning,
    )
    ended = Conclusion(settlement, answered=bool(outcomes) and (others_answered or answered(outcomes)))
    closed: dict[str, str] = {}
    if len(settlement.delivered) < len(outcomes):
        unknown = [outcome for outcome in outcomes if isinstance(outcome, Unknown)]
        silence = [outcome.reason for outcome in unknown if not outcome.answered]
        ended.repeats = sum(len(outcome.messages) for outcome in unknown)
        ended.silent = None if ended.answered or not silence else silence[0]
        ended.one_by_one = frozenset(
            (message.lane, message.topic)
            for outcome in outcomes
            if isinstance(outcome, BatchRefused)
            for message in outcome.messages
        )
        closed = _closed(fetched, outcomes, silence_closes=ended.answered, refusals_to_close=refusals_to_close)
        settlement.refused = [e for e in outcomes if isinstance(e, Refused) and e.message.topic not in closed]
    if closed or settlement.refused or fetched.topics:
        settlement.topics = _topic_changes(fetched, settlement, closed)
    settlement.lanes = _lanes(plan, lanes, fetched, settlement, due)
    return ended


def _closed(
    fetched: Fetched, outcomes: Sequence[Outcome], *, silence_closes: bool, refusals_to_close: int
) -> dict[str, str]:
    """The topics that take nothing now, and why."""
    closed: dict[str, str] = {}
    confirmed = {outcome.messages[0].topic for outcome in outcomes if isinstance(outcome, Delivered)}
    refusals = Counter({topic: fetched.topics[topic].refused_in_a_row for topic in fetched.topics.keys() - confirmed})
    for outcome in outcomes:
        match outcome:
            case TopicUnavailable(topic, _, reason):
                closed[topic] = reason
            case Unknown(messages, reason, answered=False) if silence_closes:
                closed[messages[0].topic] = reason
            case Refused(message, reason):
                refusals[message.topic] += 1
                if refusals[message.topic] >= refusals_to_close:
                    closed[message.topic] = f"{reason} {refusals_to_close} times in a row"
    return closed


def _topic_changes(fetched: Fetched, settlement: Settlement, closed: dict[str, str]) -> dict[str, TopicChange]:
    """What to write into `outbox_topics`; nothing as long as all is well."""
    confirmed = {batch.messages[0].topic for batch in settlement.delivered} & fetched.topics.keys()
    refused = Counter(letter.message.topic for letter in settlement.refused)
    return {
        topic: TopicChange(reason=closed.get(topic), confirmed=topic in confirmed, refused=refused[topic])
        for topic in closed.keys() | confirmed | refused.keys()
    }


def _lanes(
    plan: Plan, lanes: Sequence[Lane], fetched: Fetched, settlement: Settlement, due: Callable[[int, int], bool]
) -> list[Lane]:
    """The rows of `outbox_lanes` that must, or may as well, be written: when one is due, all that moved, because it is
    the round trip that costs.
    """
    settled: set[int] | None = None
    if sum(len(batch.messages) for batch in settlement.delivered) < len(fetched.messages):
        settled = {message.id for batch in settlement.delivered for message in batch.messages}
        settled |= {letter.message.id for letter in settlement.refused}
        settled |= {message.id for message in settlement.parked}
    behind_topic = {message.lane for message in settlement.parked if message.held == 0}
    came_back = {message.lane for message in fetched.messages if message.behind == 0}
    changed = came_back | {lane.lane for lane in lanes if lane.lane in behind_topic and not lane.has_parked}
    if not changed and not any(due(lane.lane, most(lane, plan.last(lane.lane))) for lane in lanes):
        return []
    rows = [(lane, advance(lane, plan.learned(lane.lane, fetched.xmin, settled))) for lane in lanes]
    one_is_due = any(moved(lane, after) > 0 and due(lane.lane, moved(lane, after)) for lane, after in rows)
    return [after for lane, after in rows if lane.lane in changed or (one_is_due and moved(lane, after) > 0)]
