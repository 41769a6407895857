"""How small a world is explored: who writes what, how many relays there are, and what may go wrong how often."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.rules import Rule
from tests.model.state import PARK, Left

_NOTHING_FAILS = Left()


class Text(NamedTuple):
    """A message that somebody will write. Without a key, no order is promised."""

    key: str = ""
    topic: str = "t"
    bad: bool = False


class Step(NamedTuple):
    """A step of a writer: `xid`, `lock`, `draw`, `insert`, `commit`, or `all` of them at once.

    It concerns these messages, or locks of these keys.
    """

    what: str
    texts: tuple[Text, ...] = ()
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Write:
    """A transaction that adds these messages in one statement.

    `early`: it wrote something else before, so it has had its xid for long. `at_once`: what happens inside does not
    matter to the question, so it is one step.
    """

    texts: tuple[Text, ...]
    early: bool = False
    at_once: bool = False

    def script(self, off: Rule | None) -> tuple[Step, ...]:
        """The steps, as `app.outbox.writer` takes them."""
        if self.at_once:
            return (Step("all", self.texts, frozenset(text.key for text in self.texts if text.key)),)
        steps = [Step("xid")] if self.early else []
        keys = list(dict.fromkeys(text.key for text in self.texts if text.key))
        if off is not Rule.LOCKS_SORTED:
            keys.sort()
        locks = [Step("lock", keys=frozenset((key,))) for key in keys]
        draws = []
        for text in self.texts:
            if off is not Rule.XID_BEFORE_ID and not self.early:
                draws.append(Step("xid"))
            draws += [Step("draw", (text,)), Step("insert")]
        if off is Rule.KEY_LOCK:
            locks = []
        elif off is Rule.LOCKS_BEFORE_IDS:
            locks, draws = locks[:1], draws[:3] + locks[1:] + draws[3:]
        return (*steps, *locks, *draws, Step("commit"))


def write(*texts: Text, early: bool = False) -> Write:
    """A transaction, step by step."""
    return Write(texts, early=early)


def quick(key: str = "", topic: str = "t", *, bad: bool = False) -> Write:
    """A transaction with one message, at once."""
    return Write((Text(key, topic, bad),), at_once=True)


def together(*texts: Text) -> Write:
    """A transaction with several messages, at once."""
    return Write(texts, at_once=True)


@dataclass(frozen=True)
class Config:
    """A small world. `relays` says how many slots each process has."""

    writes: tuple[Write, ...]
    relays: tuple[int, ...] = (1, 1)
    lanes: int = 1
    """Key `a` is in lane 0, `b` in lane 1 and so on; what has no key is in lane 0."""
    cut: int = 2
    """Where each list of a claim is cut."""
    batch: int = 9
    """Messages in one batch to Kafka."""
    left: Left = _NOTHING_FAILS
    aborts: bool = False
    """Writers may roll back."""
    unclaimed: bool = True
    """Lanes without work, but with a floor that is behind, are claimed too."""
    rarely: bool = False
    """A lane's row need not be written whenever it could be."""
    pausable: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    """Topics that may answer that they take nothing."""
    policies: tuple[str, ...] = (PARK,)
    """The first one holds; with two, operators may change it."""
    mends: bool = True
    """An operator who retries a dead letter has mended what it was refused for."""
    refusals_to_close: int = 10
    off: Rule | None = None

    topics: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "topics", tuple(sorted({text.topic for one in self.writes for text in one.texts})))

    def on(self, rule: Rule) -> bool:
        """Is the rule on?"""
        return self.off is not rule

    def lane_of(self, key: str) -> int:
        """A key is always in the same lane."""
        return (ord(key) - ord("a")) % self.lanes if key else 0

    @property
    def topics_close(self) -> bool:
        """Can a topic ever be shut?"""
        return bool(
            self.pausable or self.unavailable or self.left.timeouts or self.refusals_to_close < len(self.writes)
        )
