"""What an audit says: numbers, and for each kind of finding how often and where. Never what a message carries."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    """A receipt names a record inside the present log, and there is none."""
    INVENTED = "invented"
    """A record with our headers that no receipt, owed message, parked message or dead letter knows."""
    ALTERED = "altered"
    """A record whose key or value is not what was committed."""
    REPEATED = "repeated"
    """A record more than its message needs. Allowed: consumers recognise it."""
    OUT_OF_ORDER = "out of order"
    """The first record of a message lies behind that of a later message of the same topic and key."""
    FALSE_RECEIPT = "false receipt"
    """Two receipts at one place or of one message, one of a message still owed, one that names another's record."""
    UNFAITHFUL_DEAD_LETTER = "unfaithful dead letter"
    """A dead letter of an input that is not what the input was."""
    GAP = "gap"
    """An input below its consumer's committed offset that the inbox does not know."""


@dataclass(frozen=True, slots=True)
class Example:
    """One finding: ids and coordinates. `message_id` is None where the record has none that is a UUID."""

    message_id: str | None
    topic: str
    partition: int | None
    offset: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """All findings of one kind: how many, the first few, and whether they break the promise."""

    kind: Kind
    count: int
    violation: bool
    examples: tuple[Example, ...] = ()


@dataclass(slots=True, kw_only=True)
class TopicCounts:
    """What was read of a topic, and what of it could not be judged; filled while it is read.

    `no_longer_there`: receipts whose records retention or compaction has removed. `foreign`: records without our
    headers. `beyond_receipts`: records older than receipts are kept, so nobody knows them any more. `order_unknown`:
    records whose place among those of their key cannot be told.
    """

    topic: str
    records: int = 0
    receipts: int = 0
    no_longer_there: int = 0
    foreign: int = 0
    beyond_receipts: int = 0
    order_unknown: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What PostgreSQL held at the end: messages owed and parked, and dead letters that nobody has decided on."""

    owed: int
    parked: int
    dead_letters: int
    dead_letter_examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeCounts:
    """What was read of a consumer's input: `checked` records below its committed offsets, and those too old to tell."""

    consumer: str
    topic: str
    checked: int
    too_old: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an audit found. `findings` has only kinds with a count above 0."""

    started_at: datetime
    seconds: float
    topics: tuple[TopicCounts, ...]
    intakes: tuple[IntakeCounts, ...]
    standing: Standing
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Is nothing of what was found a violation?"""
        return not any(finding.violation for finding in self.findings)

    @property
    def records(self) -> int:
        """Records that were read, inputs included."""
        return sum(topic.records for topic in self.topics) + sum(intake.checked for intake in self.intakes)

    def count(self, kind: Kind) -> int:
        """How many findings of this kind."""
        return next((finding.count for finding in self.findings if finding.kind is kind), 0)
