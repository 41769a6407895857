"""The worlds that are explored: those in which the promise must hold, and one for each rule that is switched off."""

from dataclasses import dataclass, replace

from tests.model.configuration import Config, Text, quick, together, write
from tests.model.rules import Rule
from tests.model.state import CONTINUE, PARK, Left


@dataclass(frozen=True)
class Case:
    """A world with a name. `large` ones are left to the command; the others are tests too."""

    name: str
    config: Config
    large: bool = False


_A, _B, _ANY = Text("a"), Text("b"), Text()
_LATE = (write(_A, early=True), write(_B), write(_A))
_UNKEYED = (write(_ANY, early=True), write(_A), write(_ANY))
_THREE = (quick("a"), quick("a"), quick("a"))
_BAD_FIRST = (quick("a", bad=True), quick("a"), quick("a"))
_TWO_LANES = (together(_A, _B), quick("a"))
_TWO_TOPICS = (quick("a", "t"), quick("a", "u"), quick("a", "t"))
_BAD_LANES = (quick("a", bad=True), quick("b", bad=True), quick("a"))
_BAD_TWICE = (quick("a", bad=True), quick("b", bad=True), quick("a"))
_LATE_ANY = (write(_ANY, early=True), quick("b"), quick("a"))
_PAUSED = Config(_THREE, unclaimed=False, pausable=("t",))
_CLOSED = Config(_THREE, unclaimed=False, unavailable=("t",))
_CHANGED = Config(_BAD_FIRST, relays=(1,), mends=False, unclaimed=False, policies=(PARK, CONTINUE), left=Left(acts=2))
_SILENT = Config((quick("a"), quick("b")), relays=(2,), lanes=2, unclaimed=False)
_CROSSED = Config(
    (together(*(Text(key, topic) for key in "ab" for topic in "tu")),),
    lanes=2,
    unclaimed=False,
    unavailable=("t", "u"),
)
_REFUSED = Config(
    (together(*(Text(key, topic, bad=True) for key in "ab" for topic in "tu")),), lanes=2, unclaimed=False
)

HOLD = (
    # Writers and the floor
    Case("late commits and roll-backs", Config(_LATE, relays=(1,), aborts=True)),
    Case("late commits, lanes rarely written", Config(_LATE, relays=(1,), rarely=True), large=True),
    Case("late commits without keys, two relays", Config(_UNKEYED), large=True),
    Case("late commits, killed or frozen", Config((write(_A, early=True), write(_A)), left=Left(crashes=1, freezes=1))),
    Case("late commits, lists cut at one, unanswered", Config(_LATE_ANY, relays=(1,), cut=1, left=Left(timeouts=1))),
    Case("the same, and killed", Config(_LATE_ANY, relays=(1,), cut=1, left=Left(crashes=1, timeouts=1)), large=True),
    Case("two keys in one add", Config((write(_A, _B), write(_B, _A)), relays=(1,))),
    # Faults
    Case("killed or frozen", Config(_THREE, unclaimed=False, left=Left(crashes=1, freezes=1))),
    Case("killed, frozen, unanswered", Config(_THREE, unclaimed=False, left=Left(1, 1, 1)), large=True),
    Case("unanswered, a batch a message", Config(_THREE, relays=(1,), cut=3, batch=1, left=Left(timeouts=1))),
    Case(
        "unanswered twice, two slots", Config(_THREE, relays=(2,), unclaimed=False, left=Left(timeouts=2)), large=True
    ),
    # Several lanes in a claim
    Case("two lanes, killed", Config(_TWO_LANES, lanes=2, unclaimed=False, left=Left(crashes=1))),
    Case("two lanes, killed or frozen", Config(_TWO_LANES, lanes=2, unclaimed=False, left=Left(1, 1)), large=True),
    Case("two lanes, late commit", Config((write(_A, early=True), write(_B), quick("a")), lanes=2, relays=(1,), cut=1)),
    Case(
        "two lanes, two slots of a relay, unanswered",
        Config(_TWO_LANES, lanes=2, relays=(2,), unclaimed=False, left=Left(timeouts=1)),
        large=True,
    ),
    # Dead letters
    Case("dead letter, one behind it, killed", Config(_BAD_FIRST[:2], unclaimed=False, left=Left(crashes=1, acts=1))),
    Case("dead letter, killed", Config(_BAD_FIRST, unclaimed=False, left=Left(crashes=1, acts=1)), large=True),
    Case("dead letter, frozen", Config(_BAD_FIRST, unclaimed=False, left=Left(freezes=1, acts=1)), large=True),
    Case("dead letter retried in vain", Config(_BAD_FIRST, relays=(1,), mends=False, left=Left(acts=2))),
    Case("a dead letter in each lane", Config(_BAD_LANES, lanes=2, relays=(1,), left=Left(acts=2)), large=True),
    Case("policy continue", Config(_BAD_FIRST, relays=(1,), policies=(CONTINUE,), left=Left(crashes=1, acts=1))),
    Case("policy changed", _CHANGED),
    Case("policy changed, killed", replace(_CHANGED, left=Left(crashes=1, acts=3)), large=True),
    Case("refused until the topic closes", Config(_BAD_TWICE, relays=(1,), refusals_to_close=2, left=Left(acts=1))),
    # Topics
    Case("topic paused", Config(_THREE, relays=(1,), pausable=("t",), left=Left(acts=2))),
    Case("topic paused, killed", replace(_PAUSED, left=Left(crashes=1, acts=2)), large=True),
    Case("topic paused, frozen", replace(_PAUSED, left=Left(freezes=1, acts=2)), large=True),
    Case("one key in two topics, one paused", Config(_TWO_TOPICS, relays=(1,), pausable=("t",), left=Left(acts=2))),
    Case("topic closed by its breaker", replace(_CLOSED, left=Left(outages=1))),
    Case("topic closed twice, killed", replace(_CLOSED, left=Left(crashes=1, outages=2)), large=True),
    Case("topic closed, two lanes", Config(_TWO_LANES, lanes=2, relays=(1,), unavailable=("t",), left=Left(outages=1))),
    Case(
        "topic closed, two lanes, two relays, lists cut at one",
        Config(_TWO_LANES, lanes=2, cut=1, unclaimed=False, unavailable=("t",), left=Left(outages=1)),
        large=True,
    ),
    Case(
        "topic closed behind a dead letter",
        Config(_BAD_FIRST, relays=(1,), unclaimed=False, unavailable=("t",), left=Left(outages=1, acts=2)),
        large=True,
    ),
    Case(
        "topic paused behind a dead letter, killed",
        Config(_BAD_FIRST, relays=(1,), unclaimed=False, pausable=("t",), left=Left(crashes=1, acts=3)),
        large=True,
    ),
    Case("two topics closed from two lanes", replace(_CROSSED, left=Left(outages=2)), large=True),
    Case("two topics refuse from two lanes", _REFUSED),
    # The broker
    Case("broker silent, two relays", Config(_THREE[:2], unclaimed=False, left=Left(timeouts=2))),
    Case("broker silent, two slots of a relay", replace(_SILENT, left=Left(timeouts=2)), large=True),
)


def _off(rule: Rule, config: Config) -> Case:
    return Case(rule.value, replace(config, off=rule))


BREAK = (
    _off(Rule.KEY_LOCK, Config((write(_A), write(_A)), relays=(1,), unclaimed=False)),
    _off(Rule.LOCKS_SORTED, Config((write(_A, _B), write(_B, _A)), relays=(1,), unclaimed=False)),
    _off(Rule.LOCKS_BEFORE_IDS, Config((write(_B, _A), write(_B)), relays=(1,), unclaimed=False)),
    _off(Rule.XID_BEFORE_ID, Config((write(_A), quick("b"), quick("b"), quick("b")), relays=(1,), cut=1)),
    _off(Rule.XMIN_NOT_XMAX, Config(_LATE, relays=(1,))),
    _off(Rule.XMIN_OF_THE_FETCH, Config(_UNKEYED)),
    _off(Rule.MARK_OF_EARLIER_ROUNDS, Config(_LATE, relays=(1,))),
    _off(Rule.FLOOR_STOPS_AT_OWED, Config((write(_ANY), quick("b")), relays=(1,), left=Left(timeouts=1))),
    _off(Rule.LANE_LOCK, Config(_THREE[:1], unclaimed=False)),
    _off(Rule.LOCKED_ROW, Config(_THREE, unclaimed=False, pausable=("t",), left=Left(acts=2))),
    _off(Rule.OWN_STATEMENT, Config(_THREE[:2], unclaimed=False)),
    _off(Rule.HELD_READ_LAST, Config(_BAD_FIRST, cut=1, unclaimed=False)),
    _off(Rule.CUT_TOGETHER, Config(_THREE, relays=(1,), cut=1, unclaimed=False, pausable=("t",), left=Left(acts=2))),
    _off(Rule.STOP_AT_SILENCE, Config(_THREE[:2], relays=(1,), batch=1, unclaimed=False, left=Left(timeouts=1))),
    _off(Rule.STOP_AT_REFUSAL, Config(_BAD_FIRST, relays=(1,), unclaimed=False)),
    _off(Rule.SINGLY_AFTER_REFUSAL, Config(_BAD_FIRST, relays=(1,), unclaimed=False)),
    _off(Rule.DEAD_LETTER_HOLDS, Config(_BAD_FIRST, relays=(1,), unclaimed=False)),
    _off(Rule.SAME_MARK, Config(_BAD_FIRST, relays=(1,), mends=False, unclaimed=False, left=Left(acts=2))),
    _off(Rule.WAITING_HOLDS, _CHANGED),
    _off(Rule.APPLIED_LATER, _CHANGED),
    _off(Rule.MARKED_WHEN_BURIED, _CHANGED),
    _off(Rule.PARKED_IS_NOTED, replace(_PAUSED, relays=(1,), rarely=True, left=Left(acts=2))),
    _off(Rule.SMALLEST_PROBES, Config(_THREE, relays=(1,), unclaimed=False, unavailable=("t",), left=Left(outages=1))),
    _off(Rule.TOPICS_SORTED, _REFUSED),
    _off(
        Rule.PROBE_GIVEN_BACK,
        Config(_THREE[:1], relays=(1,), unclaimed=False, pausable=("t",), left=Left(timeouts=1, acts=2)),
    ),
)
