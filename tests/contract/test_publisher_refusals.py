"""What a publisher makes of messages and topics that Kafka does not take."""

import os

import pytest

from relay.outcomes import BatchRefused, Delivered, OwedMessage, Refused, TopicUnavailable, Unsent
from tests.contract.carrying import (
    DEADLINE,
    assert_each_in_exactly_one,
    assert_true,
    delivered,
    members,
    message,
    messages,
)
from tests.contract.stages import Stage

pytestmark = pytest.mark.real_kafka  # the mock knows no settings of topics and makes those that it does not know


def with_one_too_large(topic: str) -> tuple[list[OwedMessage], OwedMessage]:
    """Messages of one partition, the fourth of which the topic does not take."""
    sent = [message(topic, b"key", os.urandom(10)) for _ in range(7)]
    sent[3] = sent[3]._replace(payload=os.urandom(20_000))
    return sent, sent[3]


async def test_a_batch_with_a_message_too_large_is_refused_as_a_whole_and_hurts_no_other(stage: Stage) -> None:
    topic, other = await stage.topic(largest=10_000), await stage.topic()
    sent, culprit = with_one_too_large(topic)
    stage.refuse(culprit)
    mates = messages(other, 50)
    outcomes = await stage.publisher.publish([*sent, *mates], singly=(), deadline=DEADLINE)
    assert_each_in_exactly_one([*sent, *mates], outcomes)
    assert {each.id for each in delivered(outcomes)} == {each.id for each in mates}
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Delivered)]
    assert refused == [BatchRefused(sent, "MESSAGE_TOO_LARGE")]
    assert await stage.records(topic, at_least=0) == []


async def test_one_by_one_the_message_too_large_is_named_and_the_others_pass(stage: Stage) -> None:
    topic = await stage.topic(largest=10_000)
    sent, culprit = with_one_too_large(topic)
    stage.refuse(culprit)
    outcomes = await stage.publisher.publish(sent, singly=[topic], deadline=DEADLINE)
    assert_each_in_exactly_one(sent, outcomes)
    assert delivered(outcomes) == sent[:3]
    assert outcomes[3:] == [Refused(culprit, "MESSAGE_TOO_LARGE"), Unsent(sent[4:])]
    await stage.publisher.open()
    after = await stage.publisher.publish(sent[4:], singly=[topic], deadline=DEADLINE)
    assert delivered(after) == sent[4:]
    records = await stage.records(topic, at_least=6)
    assert [record.value for record in records] == [each.payload for each in sent if each is not culprit]
    assert_true([*outcomes, *after], records)


async def test_a_message_too_large_that_went_alone_is_refused_at_once(stage: Stage) -> None:
    topic = await stage.topic(largest=10_000)
    (culprit,) = messages(topic, 1, size=20_000)
    stage.refuse(culprit)
    outcomes = await stage.publisher.publish([culprit], singly=(), deadline=DEADLINE)
    assert outcomes == [Refused(culprit, "MESSAGE_TOO_LARGE")]


async def test_an_unavailable_topic_hurts_no_other(stage: Stage) -> None:
    lost, good = messages(stage.unavailable_topic(), 30), messages(await stage.topic(), 30)
    outcomes = await stage.publisher.publish([*lost, *good], singly=(), deadline=DEADLINE)
    assert_each_in_exactly_one([*lost, *good], outcomes)
    assert {each.id for each in delivered(outcomes)} == {each.id for each in good}
    for outcome in outcomes:
        if not isinstance(outcome, Delivered | Unsent):
            assert isinstance(outcome, TopicUnavailable)
            assert {each.topic for each in members(outcome)} == {outcome.topic}


@pytest.mark.parametrize("garbage", [b"\x02\x04", b"\x40\x02x\x02", b"\x02\x7fxx", b"\x02\x02x\x02yz"])
async def test_a_message_whose_stored_headers_are_none_is_refused_and_hurts_no_other(
    stage: Stage, garbage: bytes
) -> None:
    topic = await stage.topic()
    sent = [message(topic, b"key", b"%d" % number) for number in range(3)]
    sent[1] = sent[1]._replace(headers=[garbage])
    stage.refuse(sent[1])
    (outcome,) = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    assert isinstance(outcome, BatchRefused)
    await stage.publisher.open()
    first, second, rest = await stage.publisher.publish(sent, singly=[topic], deadline=DEADLINE)
    assert delivered([first]) == sent[:1]
    assert isinstance(second, Refused)
    assert second.message == sent[1]
    assert rest == Unsent(sent[2:])
