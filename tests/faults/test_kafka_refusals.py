"""Messages that Kafka refuses for what they are: they alone become dead letters, and only their key waits."""

import os
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from relay.loop import Relay
from tests.faults.watching import Watch
from tests.ledger import Added
from tests.operating import discard, retry, set_policy
from tests.relaying import hurried, running
from tests.services.kafka import Kafka, RealKafka, Record

pytestmark = pytest.mark.real_kafka

LIMIT = 5000
"""The largest batch that the topics of these tests take, in bytes."""


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    return await kafka.create_topic(max_message_bytes=str(LIMIT))


@pytest.fixture
async def relay(kafka: Kafka, database_url: str, watch: Watch) -> AsyncIterator[Relay]:
    async with running(hurried(database_url, kafka.bootstrap_servers)) as relay:
        yield relay


async def raise_limit(kafka: Kafka, topic: str) -> None:
    assert isinstance(kafka, RealKafka)
    async with kafka.admin() as admin:
        change = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": "1000000"})
        await admin.alter_configs([change])


async def add_around_one_too_large(watch: Watch, topic: str) -> tuple[Added, list[Added], list[Added]]:
    """Ten keys with five messages each, the third of `bad` too large: it, the rest of its key, and all others."""
    rows: list[tuple[bytes, bytes]] = []
    for turn in range(5):
        rows += [(b"good-%d" % number, b"%d" % turn) for number in range(9)]
        rows.append((b"bad", os.urandom(2 * LIMIT) if turn == 2 else b"%d" % turn))
    added = await watch.add(topic, rows)
    bad = [message for message in added if message.key == b"bad"]
    return bad[2], bad[3:], [message for message in added if message not in bad[2:]]


def values(records: Sequence[Record], key: bytes) -> list[bytes | None]:
    return [record.value for record in records if record.key == key]


async def test_a_message_too_large_becomes_a_dead_letter_and_only_its_followers_wait(
    kafka: Kafka, database_url: str, watch: Watch, topic: str, relay: Relay
) -> None:
    culprit, followers, others = await add_around_one_too_large(watch, topic)
    mates = await watch.fill(await kafka.create_topic(), messages=200)
    assert await watch.dead(culprit) == "MESSAGE_TOO_LARGE"
    await watch.delivered([*others, *mates])
    await watch.parked(followers)
    later = await watch.add(topic, [(b"bad", b"5"), (b"good-1", b"5")])
    await watch.delivered([later[1]])
    await watch.parked([*followers, later[0]])
    assert await watch.dead(culprit) == "MESSAGE_TOO_LARGE"

    await raise_limit(kafka, topic)
    await retry(database_url, culprit)
    records = await watch.verify(kafka, database_url)
    assert values(records, b"bad") == [b"0", b"1", culprit.payload, b"3", b"4", b"5"]
    assert watch.repeats_possible == 0


async def test_a_retried_message_that_is_still_too_large_waits_again_with_its_followers(
    kafka: Kafka, database_url: str, watch: Watch, topic: str, relay: Relay
) -> None:
    culprit, followers, others = await add_around_one_too_large(watch, topic)
    await watch.dead(culprit)
    await watch.delivered(others)
    await retry(database_url, culprit)
    await watch.dead(culprit)
    await watch.parked(followers)

    await discard(database_url, culprit)
    records = await watch.verify(kafka, database_url, dead=[culprit.message_id])
    assert values(records, b"bad") == [b"0", b"1", b"3", b"4"]
    assert watch.repeats_possible == 0


async def test_with_the_policy_continue_nothing_waits(
    kafka: Kafka, database_url: str, watch: Watch, topic: str, relay: Relay
) -> None:
    await set_policy(database_url, topic, "continue")
    culprit, followers, others = await add_around_one_too_large(watch, topic)
    await watch.dead(culprit)
    await watch.delivered([*followers, *others])
    records = await watch.verify(kafka, database_url, dead=[culprit.message_id])
    assert values(records, b"bad") == [b"0", b"1", b"3", b"4"]


async def test_ten_refusals_in_a_row_close_the_topic_instead(
    kafka: Kafka, database_url: str, watch: Watch, topic: str, relay: Relay
) -> None:
    other = await kafka.create_topic()
    culprits = await watch.add(topic, [(b"%d" % number, os.urandom(2 * LIMIT)) for number in range(30)])
    assert await watch.closed(topic) == "MESSAGE_TOO_LARGE 10 times in a row"
    await watch.delivered(await watch.fill(other, messages=50))
    held = await watch.add(topic, [(b"new", b"1"), (b"new", b"2")])
    await watch.parked(held)

    await raise_limit(kafka, topic)
    await watch.delivered(held)
    dead = {message.message_id for message in culprits if await watch.is_dead(message)}
    assert len(dead) < 10
    await watch.verify(kafka, database_url, dead=dead)


async def test_a_flood_of_large_and_small_keeps_all_that_the_topic_takes(
    kafka: Kafka, database_url: str, watch: Watch, topic: str, relay: Relay
) -> None:
    """Batches above the topic's limit are refused although each of their messages would be taken."""
    await set_policy(database_url, topic, "continue")
    large = b"large"
    rows = [(b"key-%d" % (number % 7), os.urandom(900)) for number in range(300)]
    rows[100:100] = [(large, os.urandom(2 * LIMIT))]
    rows[200:200] = [(large, os.urandom(2 * LIMIT))]
    added = await watch.add(topic, rows)
    dead = [message.message_id for message in added if message.key == large]
    await watch.delivered([message for message in added if message.key != large])
    await watch.verify(kafka, database_url, dead=dead)
