"""The relay's own pure functions, asked about the model's facts: the model checks this code, not a copy of it.

`relay.delivery.plan` and `conclude` and `relay.floor.advance` decide what a round sends, holds and records;
`relay.breaker.Breaker` who may claim. What they answered is remembered, because most rounds have been seen before.
"""

from datetime import timedelta
from typing import NamedTuple

from relay.breaker import Breaker, Permit
from relay.delivery import Plan, conclude, plan
from relay.floor import Lane, Round, advance
from relay.outcomes import (
    BatchRefused,
    Delivered,
    OwedMessage,
    Refused,
    TopicUnavailable,
    Unknown,
    Unsent,
)
from relay.outcomes import Outcome as RelayOutcome
from relay.store import Fetched, Topic
from tests.model.configuration import Config
from tests.model.rules import Rule
from tests.model.state import FREE, IN_LANE, Claimed, Got, LaneRow, Message, Outcome, Slot

_SIZE = 1_000_000_000
_SECOND = timedelta(seconds=1)


class Ended(NamedTuple):
    """A conclusion in the model's words: ids instead of messages."""

    delivered: frozenset[int]
    refused: tuple[int, ...]
    parked: tuple[Got, ...]
    reparked: tuple[Got, ...]
    lanes: tuple[tuple[int, LaneRow], ...]
    topics: tuple[tuple[str, bool, bool, int], ...]
    """Name, does it close, was one confirmed, refused."""
    answered: bool
    silent: bool
    one_by_one: frozenset[tuple[int, str]]


class Planned(NamedTuple):
    """What to send and what to hold, by id."""

    send: tuple[int, ...]
    held: tuple[int, ...]


class Product:
    """The pure functions, with a memory."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._plans: dict[object, tuple[Plan, Fetched]] = {}
        self._endings: dict[object, Ended] = {}
        self._permits: dict[tuple[bool, bool, str], tuple[Permit, bool, bool]] = {}

    def plan(self, messages: tuple[Message, ...], slot: Slot) -> Planned:
        """What `relay.delivery.plan` makes of the slot's fetch."""
        made, _ = self._plan(messages, slot)
        return Planned(tuple(message.id for message in made.send), tuple(message.id for message in made.held))

    def conclude(self, messages: tuple[Message, ...], slot: Slot, *, xmin: int, due: bool) -> Ended:
        """What `relay.delivery.conclude` makes of the slot's outcomes. `xmin` is the fetch's, or a wrong one."""
        facts = (messages, slot.lanes, slot.xid, xmin, slot.got, slot.topics, slot.alone, slot.cut)
        key = (*facts, slot.outcomes, slot.others_answered, due)
        if key not in self._endings:
            self._endings[key] = self._conclude(messages, slot._replace(xmin=xmin), due=due)
        return self._endings[key]

    def permit(self, *, failing: bool, probing: bool) -> tuple[Permit, bool]:
        """May a slot claim, once every pause is over? And is somebody probing now?"""
        permit, _, probing = self._breaker(failing, probing, "permit")
        return permit, probing

    def after(self, act: str, *, failing: bool, probing: bool) -> tuple[bool, bool]:
        """Is the breaker failing, and is somebody probing, after `answered`, `failed` or `unused`?"""
        _, failing, probing = self._breaker(failing, probing, act)
        return failing, probing

    def _breaker(self, failing: bool, probing: bool, act: str) -> tuple[Permit, bool, bool]:
        key = (failing, probing, act)
        if key not in self._permits:
            now = [0.0]
            breaker = Breaker(first_pause=_SECOND, longest_pause=_SECOND, clock=lambda: now[0])
            if failing:
                breaker.failed()
                now[0] = 2.0  # every pause is over when somebody asks
            if probing:
                breaker.permit()
            permit = getattr(breaker, act)()
            self._permits[key] = (permit or Permit.CLAIM, not breaker.closed, breaker._probing)
        return self._permits[key]

    def _plan(self, messages: tuple[Message, ...], slot: Slot) -> tuple[Plan, Fetched]:
        key = (messages, slot.xmin, slot.got, slot.topics, slot.alone, slot.cut)
        if key not in self._plans:
            fetched = Fetched(
                xmin=slot.xmin,
                messages=[_owed(messages, got) for got in slot.got],
                topics={name: Topic(closed, refused) for name, closed, refused in slot.topics},
                returning=[],
            )
            cut = slot.cut if self._config.on(Rule.CUT_TOGETHER) else _SIZE
            self._plans[key] = plan(fetched, messages=cut, size=_SIZE, probes=slot.alone), fetched
        return self._plans[key]

    def _conclude(self, messages: tuple[Message, ...], slot: Slot, *, due: bool) -> Ended:
        made, fetched = self._plan(messages, slot)
        owed = {message.id: message for message in fetched.messages}
        lanes = [_lane(claimed, slot.xid) for claimed in slot.lanes]
        ended = conclude(
            made,
            lanes,
            fetched,
            [_outcome(outcome, owed) for outcome in slot.outcomes],
            others_answered=slot.others_answered,
            refusals_to_close=self._config.refusals_to_close,
            due=lambda lane, ids: due,
        )
        settlement = ended.settlement
        delivered = frozenset(message.id for batch in settlement.delivered for message in batch.messages)
        refused = tuple(letter.message.id for letter in settlement.refused)
        gone = delivered.union(refused, (message.id for message in settlement.parked))
        written = settlement.lanes if due or self._config.on(Rule.PARKED_IS_NOTED) else []
        if self._config.off in {Rule.MARK_OF_EARLIER_ROUNDS, Rule.FLOOR_STOPS_AT_OWED}:
            written = [self._advance(lane, made.learned(lane.lane, fetched.xmin, gone)) for lane in lanes]
        return Ended(
            delivered=delivered,
            refused=refused,
            parked=tuple(map(_got, settlement.parked)),
            reparked=tuple(map(_got, settlement.reparked)),
            lanes=tuple((lane.lane, _row(lane)) for lane in written),
            topics=tuple(
                (name, change.reason is not None, change.confirmed, change.refused)
                for name, change in sorted(settlement.topics.items())
            ),
            answered=ended.answered,
            silent=ended.silent is not None,
            one_by_one=ended.one_by_one,
        )

    def _advance(self, before: Lane, done: Round) -> Lane:
        """`relay.floor.advance` with one of its rules switched off."""
        if self._config.off is Rule.MARK_OF_EARLIER_ROUNDS:
            return advance(before._replace(seen=max(before.seen, done.last or 0)), done)
        return advance(before, done._replace(owed=None, full=False))


def _owed(messages: tuple[Message, ...], got: Got) -> OwedMessage:
    message = messages[got.id - 1]
    return OwedMessage(
        lane=message.lane,
        id=got.id,
        message_id=str(got.id),
        topic=message.topic,
        key=message.key.encode() or None,
        headers=[],
        payload=b"",
        type="",
        created_at=0,
        held=None if got.held == FREE else got.held,
        behind=None if got.behind == IN_LANE else got.behind,
    )


def _got(message: OwedMessage) -> Got:
    held = FREE if message.held is None else message.held
    return Got(message.id, held, IN_LANE if message.behind is None else message.behind)


def _lane(claimed: Claimed, xid: int) -> Lane:
    row = claimed.row
    return Lane(
        lane=claimed.lane,
        floor=row.floor,
        seen=row.seen,
        mark=row.mark or None,
        mark_xid=row.mark_xid or None,
        has_parked=row.has_parked,
        xid=xid,
    )


def _row(lane: Lane) -> LaneRow:
    return LaneRow(lane.floor, lane.seen, lane.mark or 0, lane.mark_xid or 0, lane.has_parked)


def _outcome(outcome: Outcome, owed: dict[int, OwedMessage]) -> RelayOutcome:
    batch = [owed[number] for number in outcome.ids]
    outcomes: dict[str, RelayOutcome] = {
        "Delivered": Delivered(batch, partition=0, offset=0),
        "Refused": Refused(batch[0], "refused"),
        "BatchRefused": BatchRefused(batch, "refused"),
        "TopicUnavailable": TopicUnavailable(batch[0].topic, batch, "unavailable"),
        "Unknown": Unknown(batch, "no answer"),
        "Broken": Unknown(batch, "broken sequence", answered=True),
        "Unsent": Unsent(batch),
    }
    return outcomes[outcome.kind]
