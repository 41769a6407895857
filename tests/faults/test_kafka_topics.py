"""Topics that are not there, not ours, or taken away: their messages wait parked, and all others flow."""

from datetime import timedelta
from statistics import median

import pytest

from tests.faults.watching import Watch, logged
from tests.receipts import forget
from tests.relaying import hurried, running
from tests.services.brokers import AUTHORIZER, OwnKafka
from tests.services.fixtures import PrivateKafka
from tests.services.kafka import Kafka, RealKafka

pytestmark = pytest.mark.real_kafka

LONG = timedelta(seconds=5)


async def flow(watch: Watch, topic: str, rounds: int = 30) -> None:
    """Add a few messages, wait for their delivery, and again: they must be quick all the while."""
    added = []
    for _ in range(rounds):
        batch = await watch.fill(topic, messages=8, keys=8)
        await watch.delivered(batch, LONG)
        added += batch
    delays = await watch.delays(added)
    assert median(delays) < 0.2, f"median {median(delays)} s, longest {delays[-1]} s"


async def test_a_topic_that_does_not_exist_yet(kafka: Kafka, database_url: str, watch: Watch) -> None:
    good, missing = await kafka.create_topic(), f"{await kafka.create_topic()}-later"
    async with running(hurried(database_url, kafka.bootstrap_servers)):
        await watch.fill(missing, messages=200)
        assert await watch.closed(missing) == "UNKNOWN_TOPIC_OR_PARTITION"
        await watch.parked(message for message in watch.messages if message.topic == missing)
        await flow(watch, good)
        late = await watch.fill(missing, messages=200)
        await watch.parked(late)
        await kafka.create_topic(missing)
        await watch.delivered(late)
        await watch.delivered(await watch.fill(missing, messages=10))
        await watch.verify(kafka, database_url)
        assert watch.repeats_possible == 0


async def test_a_topic_that_is_deleted_under_us(kafka: Kafka, database_url: str, watch: Watch) -> None:
    assert isinstance(kafka, RealKafka)
    good, victim = await kafka.create_topic(), await kafka.create_topic()
    async with running(hurried(database_url, kafka.bootstrap_servers)):
        await watch.delivered(await watch.fill(victim, messages=100))
        gone = list(watch.messages)
        with logged() as lines:
            await kafka.delete_topic(victim)
            waiting = await watch.fill(victim, messages=100)
            assert await watch.closed(victim)
            await watch.parked(waiting)
            await flow(watch, good)
        written = lines.getvalue().splitlines()
        assert 0 < len(written) < 50, f"{len(written)} lines"
        await kafka.create_topic(victim)
        await watch.delivered(waiting)
    # Nothing can be said of the records that went with the topic.
    await forget(watch.connection, [message.message_id for message in gone])
    watch.messages = [message for message in watch.messages if message not in gone]
    await watch.verify(kafka, database_url)


@pytest.mark.slow
async def test_the_right_to_write_is_taken_away_and_given_back(
    private_kafka: PrivateKafka, database_url: str, watch: Watch
) -> None:
    kafka: OwnKafka = await private_kafka(properties=AUTHORIZER)
    good, forbidden = await kafka.create_topic(), await kafka.create_topic()
    async with running(hurried(database_url, kafka.bootstrap_servers)):
        await watch.delivered(await watch.fill(forbidden, messages=100))
        await kafka.deny_writing(forbidden)
        waiting = await watch.fill(forbidden, messages=100)
        assert await watch.closed(forbidden) == "TOPIC_AUTHORIZATION_FAILED"
        await watch.parked(waiting)
        await flow(watch, good)
        await kafka.allow_writing(forbidden)
        await watch.delivered(waiting)
        await watch.delivered(await watch.fill(forbidden, messages=10))
        await watch.verify(kafka, database_url)
