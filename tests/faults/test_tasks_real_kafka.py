"""Tasks by both ways at once, over several processes that die and come back: what is paid is paid once."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaProducer

from tests.api import api_on
from tests.faults.test_tasks_crash import HASTE, LONG, dying, each_was_answered_once, process, settings_of
from tests.providing import ServedFakes, serving_fakes
from tests.services.kafka import RealKafka
from tests.tasking import Tasks, tasks_on
from tests.waiting import until

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]

TASKS = 60
INPUTS = 20
_POINTS = ("tasks.after_claim", "tasks.after_call_before_finish", "tasks.before_commit", "tasks.after_commit")


@pytest.fixture
async def topic(kafka: RealKafka) -> str:
    return await kafka.create_topic(partitions=4)


@pytest.fixture
async def tasks(database_url: str) -> AsyncIterator[Tasks]:
    async with tasks_on(database_url, **HASTE) as tasks:
        yield tasks


def body(number: int) -> dict[str, object]:
    """One of TASKS tasks about INPUTS phones."""
    return {"task_id": number, "task_type": "phone", "data": f"8916{number % INPUTS:07}"}


def consuming(tasks: Tasks, served: ServedFakes, kafka: RealKafka, topic: str) -> dict[str, object]:
    return settings_of(
        tasks.url,
        served,
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        kafka_import_topic=topic,
        tasks_group=f"tasks-{topic}",
        dadata_timeout=5,  # a call given up stands with the fake still, and a busy machine keeps that from answering
        task_lease_margin=0.2,
        consumer_session_timeout=6,
        consumer_fetch_wait=0.01,
    )


async def produce(kafka: RealKafka, topic: str, copies: int) -> None:
    """Each task several times, on different partitions."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    await producer.start()
    try:
        for copy in range(copies):
            for number in range(TASKS):
                await producer.send(topic, json.dumps(body(number)).encode(), partition=(number + copy) % 4)
        await producer.flush()
    finally:
        await producer.stop()


async def all_accepted(tasks: Tasks) -> None:
    async def accepted() -> bool:
        return len(await tasks.states()) == TASKS

    await until(accepted, LONG)


@pytest.mark.parametrize("point", ["tasks.after_accept", "ingest.after_commit_before_offset"])
async def test_a_consumer_that_dies_loses_nothing_and_repeats_nothing(
    tasks: Tasks, kafka: RealKafka, topic: str, point: str
) -> None:
    async with serving_fakes() as served:
        env = consuming(tasks, served, kafka, topic)
        await produce(kafka, topic, copies=2)
        async with dying(env, topic, point=point) as it:
            await it.dies()
        async with process(env, topic):
            await all_accepted(tasks)
            await tasks.reach("done", timeout=LONG)
        await each_was_answered_once(tasks, TASKS)
        assert await tasks.messages("integration.errors") == []
        assert served.fakes.dadata.billed <= INPUTS + await tasks.unknown()
        assert len(set(served.fakes.dadata.inputs)) == INPUTS


async def test_what_is_paid_is_paid_once_whatever_happens(tasks: Tasks, kafka: RealKafka, topic: str) -> None:
    """Both ways at once, repeats, three processes, rebalances, and one that is killed again and again."""
    seed = int(os.environ.get("TEST_SEED", "7"))
    chance = random.Random(seed)
    async with serving_fakes(delay=0.03) as served, api_on(tasks.url, task_wait=60, task_wait_max=60) as api:
        env = consuming(tasks, served, kafka, topic)

        async def disturb() -> None:
            for _ in range(3):
                async with dying(env, topic, point=chance.choice(_POINTS), number=3) as it:
                    with suppress(AssertionError):  # there may be nothing left for it
                        await it.dies(timedelta(seconds=10))

        async def post(number: int) -> object:
            while True:
                response = await api.client.post("/api/integration_service", json=body(number))
                # Too busy, or not yet: asking again is always right.
                if response.status_code == 200:
                    return response.json()
                assert response.status_code in (202, 503)

        async with process(env, topic), process(env, topic):
            disturbing = asyncio.create_task(disturb())
            posts = [asyncio.create_task(post(number % TASKS)) for number in range(2 * TASKS)]
            await produce(kafka, topic, copies=2)
            await all_accepted(tasks)
            await tasks.reach("done", timeout=LONG)
            await disturbing
            answers = await asyncio.gather(*posts)
        await each_was_answered_once(tasks, TASKS)
        stored = dict(await tasks.query("SELECT task_id, result_id FROM integration_tasks"))
        assert {(each["task_id"], each["id"]) for each in answers} == set(stored.items())  # type: ignore[index]  # of JSON
        fake = served.fakes.dadata
        assert len(set(fake.inputs)) == INPUTS
        assert INPUTS <= fake.billed <= INPUTS + await tasks.unknown(), f"seed {seed}"
        assert fake.most_in_flight <= tasks.settings.dadata_slots


async def test_what_is_no_task_does_not_stop_the_others(tasks: Tasks, kafka: RealKafka, topic: str) -> None:
    async with serving_fakes() as served:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
        await producer.start()
        try:
            for bad in (b"", b"\xff", b"[]", b'{"task_id": true, "task_type": "phone", "data": "1"}', None):
                await producer.send(topic, bad, key=b"key", partition=0)
            await producer.send(topic, json.dumps(body(1)).encode(), partition=0)
            await producer.flush()
        finally:
            await producer.stop()
        async with process(consuming(tasks, served, kafka, topic), topic):

            async def done() -> bool:
                return (await tasks.states()) == {1: "done"}

            await until(done, LONG)
        assert len(await tasks.messages("integration.errors")) == 5
        # A slow machine may be late for an answer, or not even have asked in time.
        assert 1 <= served.fakes.dadata.billed <= 1 + await tasks.unknown()
