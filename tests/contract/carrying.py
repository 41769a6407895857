"""Messages for a publisher, and what its outcomes say of them."""

import itertools
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

from app.outbox.message import new_message_id
from relay.outcomes import Delivered, Outcome, OwedMessage, Refused
from tests.services.kafka import Record

DEADLINE = timedelta(seconds=10)

ids = itertools.count(1)


def message(topic: str, key: bytes | None = b"k", payload: bytes | None = b"v", *headers: bytes) -> OwedMessage:
    return OwedMessage(
        lane=0,
        id=next(ids),
        message_id=str(new_message_id()),
        topic=topic,
        key=key,
        headers=list(headers),
        payload=payload,
        type="test.happened",
        created_at=1_767_323_045_678_901,
    )


def messages(topic: str, number: int, *, keys: int = 20, size: int = 10) -> list[OwedMessage]:
    return [message(topic, b"key-%d" % (n % keys), os.urandom(size)) for n in range(number)]


def members(outcome: Outcome) -> Sequence[OwedMessage]:
    return [outcome.message] if isinstance(outcome, Refused) else outcome.messages


def delivered(outcomes: Iterable[Outcome]) -> list[OwedMessage]:
    return [each for outcome in outcomes if isinstance(outcome, Delivered) for each in outcome.messages]


def assert_each_in_exactly_one(sent: Iterable[OwedMessage], outcomes: Iterable[Outcome]) -> None:
    assert sorted(each.id for outcome in outcomes for each in members(outcome)) == sorted(each.id for each in sent)


def assert_true(outcomes: Iterable[Outcome], records: Iterable[Record]) -> None:
    """Each message that counts as delivered is where the outcome says."""
    at = {(record.topic, record.partition, record.offset): dict(record.headers)["ce_id"].decode() for record in records}
    for outcome in outcomes:
        if isinstance(outcome, Delivered):
            for offset, each in enumerate(outcome.messages, outcome.offset):
                assert at[each.topic, outcome.partition, offset] == each.message_id
