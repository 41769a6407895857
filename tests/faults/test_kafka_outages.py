"""Brokers that freeze, die, come late, or lose a leader: nothing is lost, and nothing becomes a dead letter."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka.admin import NewTopic

from relay.loop import Relay
from tests.faults.watching import Watch, down, logged
from tests.ledger import Added
from tests.relaying import ONE_SLOT, hurried, running
from tests.services.brokers import OwnKafka
from tests.services.fixtures import PrivateKafka

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]


@asynccontextmanager
async def relay_under_load(
    watch: Watch, kafka: OwnKafka, database_url: str, *topics: str, **overrides: object
) -> AsyncIterator[Relay]:
    """A relay, and a writer that goes on until the end of the block whatever Kafka does."""
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            for topic in topics:
                await watch.fill(topic, messages=10)
            await asyncio.sleep(0.03)

    async with running(hurried(database_url, kafka.bootstrap_servers, **overrides)) as relay:
        writer = asyncio.create_task(write())
        try:
            yield relay
        finally:
            done.set()
            await writer
            await watch.delivered(watch.messages)


async def some_more(watch: Watch, topic: str) -> list[Added]:
    """Messages that are added now."""
    return await watch.fill(topic, messages=10)


async def test_a_broker_frozen_beyond_the_deadline(
    private_kafka: PrivateKafka, database_url: str, watch: Watch
) -> None:
    kafka = await private_kafka()
    topic = await kafka.create_topic()
    async with relay_under_load(watch, kafka, database_url, topic, **ONE_SLOT) as relay:
        await watch.delivered(await some_more(watch, topic))
        await kafka.brokers.pause(1)
        await down(relay)
        await some_more(watch, topic)
        await kafka.brokers.resume(1)
        await watch.delivered(await some_more(watch, topic))
    await watch.verify(kafka, database_url)
    assert watch.repeats_possible > 0


async def test_a_broker_frozen_for_less_than_the_deadline(
    private_kafka: PrivateKafka, database_url: str, watch: Watch
) -> None:
    """What is sent again meanwhile is stored once: the broker knows it by its sequence."""
    kafka = await private_kafka()
    topic = await kafka.create_topic()
    settings = hurried(database_url, kafka.bootstrap_servers, publish_deadline=30, relay_idle_timeout=40, **ONE_SLOT)
    async with running(settings):
        await watch.delivered(await some_more(watch, topic))
        await kafka.brokers.pause(1)
        waiting, _ = await asyncio.gather(some_more(watch, topic), watch.claimed())
        await asyncio.sleep(3 * settings.kafka_request_timeout.total_seconds())
        await kafka.brokers.resume(1)
        await watch.delivered(waiting)
    await watch.verify(kafka, database_url)
    assert watch.repeats_possible == 0


async def test_a_broker_killed_and_restarted(private_kafka: PrivateKafka, database_url: str, watch: Watch) -> None:
    kafka = await private_kafka()
    topic = await kafka.create_topic()
    async with relay_under_load(watch, kafka, database_url, topic) as relay:
        await watch.delivered(await some_more(watch, topic))
        with logged() as lines:
            started = time.monotonic()
            await kafka.brokers.kill(1)
            await down(relay)
            await kafka.brokers.start_broker(1)
            await watch.delivered(await some_more(watch, topic))
            outage = time.monotonic() - started
    await watch.verify(kafka, database_url)
    written = lines.getvalue().splitlines()
    assert 0 < len(written) < 10 * outage, f"{len(written)} lines in {outage} s: {written[-20:]}"


async def test_a_relay_that_is_stopped_while_the_broker_is_frozen(
    private_kafka: PrivateKafka, database_url: str, watch: Watch
) -> None:
    kafka = await private_kafka()
    topic = await kafka.create_topic()
    settings = hurried(database_url, kafka.bootstrap_servers, **ONE_SLOT)
    async with running(settings):
        await watch.delivered(await some_more(watch, topic))
        await kafka.brokers.pause(1)
        waiting, _ = await asyncio.gather(some_more(watch, topic), watch.claimed())
        # The end of the block gives the relay its deadline to stop, and little more.
    await kafka.brokers.resume(1)
    async with running(settings):
        await watch.delivered(waiting)
    await watch.verify(kafka, database_url)


async def test_a_broker_that_is_not_there_at_the_start(
    private_kafka: PrivateKafka, database_url: str, watch: Watch
) -> None:
    kafka = await private_kafka()
    topic = await kafka.create_topic()
    await kafka.brokers.stop_broker(1)
    async with relay_under_load(watch, kafka, database_url, topic) as relay:
        await down(relay)
        await kafka.brokers.start_broker(1)
        await watch.delivered(await some_more(watch, topic))
    await watch.verify(kafka, database_url)
    assert watch.repeats_possible == 0, "nothing was sent while there was no broker"


async def test_a_leader_that_moves_and_a_partition_without_one(
    private_kafka: PrivateKafka, database_url: str, watch: Watch
) -> None:
    kafka = await private_kafka(brokers=3)
    copied = await kafka.create_topic(partitions=3)
    alone = f"{copied}-alone"
    async with kafka.admin() as admin:
        placed = {partition: [partition + 1] for partition in range(3)}
        await admin.create_topics([NewTopic(alone, -1, -1, replica_assignments=placed)])
    async with relay_under_load(watch, kafka, database_url, copied, alone):
        await watch.delivered(await some_more(watch, copied))
        await watch.delivered(await some_more(watch, alone))
        await kafka.brokers.kill(2)
        assert await watch.closed(alone)
        await watch.delivered(await some_more(watch, copied))
        await kafka.brokers.start_broker(2)
        await watch.delivered(await some_more(watch, alone))
    await watch.verify(kafka, database_url)
