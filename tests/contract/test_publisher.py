"""What every `relay.outcomes.Publisher` keeps to, the real one and the one in memory."""

import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from app.errors import BrokerUnavailable
from relay.outcomes import Delivered, Unknown, Unsent
from relay.partitioner import partition_of
from relay.publisher import KafkaPublisher
from tests.contract.carrying import (
    DEADLINE,
    assert_each_in_exactly_one,
    assert_true,
    delivered,
    members,
    message,
    messages,
)
from tests.contract.stages import PARTITIONS, InMemory, OnKafka, Stage, open_publisher
from tests.relaying import hurried
from tests.services.kafka import Kafka, MockKafka
from tests.services.ports import free_port


@pytest.fixture(params=["kafka", "memory"])
async def fragile(request: pytest.FixtureRequest, mock_kafka: Callable[[], MockKafka]) -> AsyncIterator[Stage]:
    """A stage that can fall silent."""
    async with open_publisher(OnKafka(mock_kafka()) if request.param == "kafka" else InMemory()) as stage:
        yield stage


async def test_each_message_is_delivered_once_where_its_outcome_says(stage: Stage) -> None:
    topics = [await stage.topic(), await stage.topic()]
    sent = [each for topic in topics for each in messages(topic, 500)]
    outcomes = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    assert_each_in_exactly_one(sent, outcomes)
    assert delivered(outcomes)
    records = [record for topic in topics for record in await stage.records(topic, at_least=500)]
    assert len(records) == len(sent)
    assert_true(outcomes, records)


async def test_a_partition_gets_its_messages_in_the_order_given(stage: Stage) -> None:
    topic = await stage.topic()
    sent = messages(topic, 1500, size=1000)
    for part in (sent[:1000], sent[1000:]):
        outcomes = await stage.publisher.publish(part, singly=(), deadline=DEADLINE)
        assert len(delivered(outcomes)) == len(part)
    expected: dict[int, list[bytes | None]] = defaultdict(list)
    for each in sent:
        assert each.key is not None
        expected[partition_of(each.key, PARTITIONS)].append(each.payload)
    found: dict[int, list[bytes | None]] = defaultdict(list)
    for record in await stage.records(topic, at_least=len(sent)):
        found[record.partition].append(record.value)
    assert found == expected


async def test_messages_without_a_key_come_too_and_use_all_partitions(stage: Stage) -> None:
    topic = await stage.topic()
    for _ in range(PARTITIONS):
        sent = [message(topic, None, b"%d" % n) for n in range(3)]
        assert len(delivered(await stage.publisher.publish(sent, singly=(), deadline=DEADLINE))) == 3
    records = await stage.records(topic, at_least=3 * PARTITIONS)
    assert {record.partition for record in records} == set(range(PARTITIONS))
    assert all(record.key is None for record in records)


async def test_headers_travel_with_the_message(stage: Stage) -> None:
    topic = await stage.topic()
    sent = [
        message(topic, b"k", b"1", b"content-type", b"application/json", b"x", b"", b"x", b"\xff\x00"),
        message(topic, b"k", b"2"),
    ]
    await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    with_headers, without = await stage.records(topic, at_least=2)
    assert list(with_headers.headers) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", sent[0].message_id.encode()),
        ("ce_type", b"test.happened"),
        ("ce_time", b"2026-01-02T03:04:05.678901Z"),
        ("content-type", b"application/json"),
        ("x", b""),
        ("x", b"\xff\x00"),
    ]
    assert len(without.headers) == 4


@pytest.mark.parametrize("key", [b"k", b"", None])
@pytest.mark.parametrize("payload", [None, b""])
async def test_nothing_and_empty_are_told_apart(stage: Stage, key: bytes | None, payload: bytes | None) -> None:
    topic = await stage.topic()
    outcomes = await stage.publisher.publish([message(topic, key, payload)], singly=(), deadline=DEADLINE)
    assert len(delivered(outcomes)) == 1
    (record,) = await stage.records(topic, at_least=1)
    assert (record.key, record.value) == (key, payload)


async def test_big_messages_keep_their_place(stage: Stage) -> None:
    topic = await stage.topic()
    sizes = [10, 900_000, 10, 131_072, 131_000, 500_000, 10]
    sent = [message(topic, b"k", os.urandom(size)) for size in sizes]
    assert len(delivered(await stage.publisher.publish(sent, singly=(), deadline=DEADLINE))) == len(sent)
    records = await stage.records(topic, at_least=len(sent))
    assert [record.value for record in records] == [each.payload for each in sent]


async def test_singly_sends_one_record_at_a_time_and_others_not(stage: Stage) -> None:
    alone, together = await stage.topic(), await stage.topic()
    sent = [*messages(alone, 10, keys=2), *messages(together, 10, keys=2)]
    outcomes = await stage.publisher.publish(sent, singly=[alone], deadline=DEADLINE)
    assert len(delivered(outcomes)) == 20
    sizes = {alone: set[int](), together: set[int]()}
    for outcome in outcomes:
        sizes[members(outcome)[0].topic].add(len(members(outcome)))
    assert sizes[alone] == {1}
    assert sizes[together] != {1}
    assert_true(outcomes, [*await stage.records(alone, at_least=10), *await stage.records(together, at_least=10)])


async def test_nothing_to_publish_is_nothing(stage: Stage) -> None:
    assert await stage.publisher.publish([], singly=(), deadline=DEADLINE) == []


async def test_opening_twice_and_closing_twice_is_harmless(stage: Stage) -> None:
    topic = await stage.topic()
    await stage.publisher.open()
    await stage.publisher.close()
    await stage.publisher.close()
    await stage.publisher.open()
    assert delivered(await stage.publisher.publish([message(topic)], singly=(), deadline=DEADLINE))


async def test_silence_ends_at_the_deadline_and_stops_the_partition(fragile: Stage) -> None:
    topic = await fragile.topic()
    first = messages(topic, 100)
    assert len(delivered(await fragile.publisher.publish(first, singly=(), deadline=DEADLINE))) == 100
    fragile.fall_silent()
    sent, started = messages(topic, 1000, size=2000), time.monotonic()
    outcomes = await fragile.publisher.publish(sent, singly=(), deadline=timedelta(seconds=1))
    assert 0.9 < time.monotonic() - started < 8
    assert_each_in_exactly_one(sent, outcomes)
    assert not delivered(outcomes)
    unknown = [outcome for outcome in outcomes if isinstance(outcome, Unknown)]
    assert len(unknown) == PARTITIONS, "one batch was on its way to each partition"
    assert not any(outcome.answered for outcome in unknown)
    assert sum(len(outcome.messages) for outcome in outcomes if isinstance(outcome, Unsent)) > 0
    fragile.speak_again()
    await fragile.publisher.open()
    last = messages(topic, 1)
    assert delivered(await fragile.publisher.publish(last, singly=(), deadline=DEADLINE)) == last
    possible = {each.message_id for outcome in unknown for each in outcome.messages}
    possible |= {each.message_id for each in (*first, *last)}
    arrived = [dict(record.headers)["ce_id"].decode() for record in await fragile.records(topic, at_least=101)]
    assert set(arrived) <= possible, "something was sent although it counts as unsent"
    assert len(arrived) == len(set(arrived))


async def test_a_broker_that_is_silent_holds_up_nobody_else(mock_kafka: Callable[[int], MockKafka]) -> None:
    kafka = mock_kafka(2)
    topic = await kafka.create_topic(partitions=2)
    for partition in range(2):
        kafka.mock.set_leader(topic, partition, partition + 1)
    async with open_publisher(OnKafka(kafka)) as stage:
        first = messages(topic, 10)
        assert len(delivered(await stage.publisher.publish(first, singly=(), deadline=DEADLINE))) == 10
        kafka.mock.set_round_trip_time(2, timedelta(minutes=1))
        sent = messages(topic, 200, size=10_000)
        outcomes = await stage.publisher.publish(sent, singly=(), deadline=timedelta(seconds=2))
    assert_each_in_exactly_one(sent, outcomes)
    of_the_other = [each for each in sent if partition_of(each.key or b"", 2) == 0]
    assert delivered(outcomes) == of_the_other
    assert sum(isinstance(outcome, Delivered) for outcome in outcomes) > 1, "they went in one batch"
    (unknown,) = [outcome for outcome in outcomes if isinstance(outcome, Unknown)]
    assert not unknown.answered


async def test_a_closed_publisher_sends_nothing(kafka: Kafka) -> None:
    real = OnKafka(kafka)
    topic = await real.topic()
    sent = messages(topic, 3)
    assert await real.publisher.publish(sent, singly=(), deadline=DEADLINE) == [Unsent(sent)]
    assert await real.records(topic, at_least=0) == []


async def test_opening_tells_when_no_broker_answers() -> None:
    publisher = KafkaPublisher(hurried("postgresql://nobody@127.0.0.1/nothing", f"127.0.0.1:{free_port()}"))
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await publisher.open()
    await publisher.close()
