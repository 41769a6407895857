"""What the relay carries, and how an attempt to publish it can end.

The port to Kafka is `Publisher`: one verb. `relay.publisher` is the real one; the fake for tests passes the same
contract.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, Protocol


class OwedMessage(NamedTuple):
    """A message as it was fetched; `headers` are as they are stored (`app.outbox.headers`).

    `message_id` is text, as the record's headers want it; `created_at` is in microseconds since 1970 (UTC). Objects for
    either would cost more.
    `held` says why it may not be published now: 0 because its topic is closed, else the id of the dead letter of its
    (topic, key) that it waits behind. `behind` is where it lies: None in the lane, 0 parked behind a closed topic,
    else parked behind that dead letter. `row` is where PostgreSQL keeps it (`ctid`: page, number).
    """

    lane: int
    id: int
    message_id: str
    topic: str
    key: bytes | None
    headers: list[bytes]
    payload: bytes | None
    type: str
    created_at: int
    held: int | None = None
    behind: int | None = None
    row: tuple[int, int] = (0, 0)


class Delivered(NamedTuple):
    """The broker confirmed these; the first has offset `offset`, the next one more, and so on."""

    messages: Sequence[OwedMessage]
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Sent alone, and refused for what it is: it can never be sent as it stands."""

    message: OwedMessage
    reason: str


@dataclass(frozen=True, slots=True)
class BatchRefused:
    """At least one of these is refused for what it is; which one shows when they are sent one by one."""

    messages: Sequence[OwedMessage]
    reason: str


@dataclass(frozen=True, slots=True)
class TopicUnavailable:
    """Kafka answers, but this topic takes nothing now."""

    topic: str
    messages: Sequence[OwedMessage]
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whether these were stored is unknown: no answer came, or (`answered`) one that does not tell.

    The second happens to batches behind one that failed: the producer's sequence is broken, a new one mends it.
    """

    messages: Sequence[OwedMessage]
    reason: str
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Unsent:
    """Not tried, because an earlier message of the partition had no good end."""

    messages: Sequence[OwedMessage]


Outcome = Delivered | Refused | BatchRefused | TopicUnavailable | Unknown | Unsent


def answered(outcomes: Iterable[Outcome]) -> bool:
    """Did the broker answer at all? Then what went wrong is a message's or a topic's matter."""
    return any(
        outcome.answered if isinstance(outcome, Unknown) else not isinstance(outcome, Unsent) for outcome in outcomes
    )


class Publisher(Protocol):
    """Hands messages to Kafka. One belongs to one slot and is used by one coroutine at a time."""

    async def open(self) -> None:
        """Be ready to publish; cheap when it is. Raises BrokerUnavailable."""

    async def publish(
        self, messages: Sequence[OwedMessage], *, singly: Collection[str], deadline: timedelta
    ) -> list[Outcome]:
        """Send the messages and wait for the answers, at most until the deadline. Raises nothing.

        Each partition gets its messages in the order given; after the first that was not confirmed it gets no other.
        Topics in `singly` get one record at a time. Each message is in exactly one outcome.
        """

    async def close(self) -> None:
        """Send nothing more; what has no answer yet never gets one."""
