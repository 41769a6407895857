"""What an audit looks at."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from app.kafka.input import Input


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which records: all of the topics' present logs, unless a bound says less.

    `topics`: empty for all that receipts, owed messages and dead letters name. `since` and `until`: moments, with a
    time zone, of publishing; `until` itself is left out. `first` and `end`: offsets, the same in each partition, `end`
    itself left out. Times are found to the batch, so a few records more may be read.
    """

    topics: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    first: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What a consumer reads: its group, the topic, the rule for ids, and where its dead letters go."""

    consumer: str
    topic: str
    identify: Callable[[Input], str]
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an audit is: `done` of about `total` records; `what` is the topic being read."""

    done: int
    total: int
    what: str
