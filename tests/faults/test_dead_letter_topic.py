"""The topic of dead letters takes nothing: inputs go on, dead letters wait in the outbox, and somebody is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from app.kafka.input import Input
from tests.consuming import Consuming, ce, consuming, kafka_settings, lag, producing, request_xml, running, user_xml
from tests.engine import connect
from tests.relaying import hurried
from tests.relaying import running as relaying
from tests.services.brokers import AUTHORIZER
from tests.services.fixtures import PrivateKafka
from tests.services.kafka import Kafka, RealKafka
from tests.waiting import until

pytestmark = pytest.mark.real_kafka

GOOD, BAD = 10, 5

_IN_HAND = """
    SELECT EXISTS (
        SELECT FROM pg_locks JOIN pg_database AS d ON d.oid = database
        WHERE d.datname = current_database() AND relation = 'inbox_messages'::regclass AND NOT granted
    )
"""


@asynccontextmanager
async def _at_work(kafka: Kafka, database_url: str, dead_letters: str) -> AsyncIterator[Consuming]:
    """A consumer and a relay."""
    names = {
        **await kafka_settings(kafka),
        "users_responses_topic": await kafka.create_topic(),
        "users_dead_letters_topic": dead_letters,
    }
    servers = names["kafka_bootstrap_servers"]
    relay = {"users_dead_letters_topic": dead_letters, "relay_probe_max": 0.5}
    async with (
        relaying(hurried(database_url, servers, **relay)),
        consuming(database_url, **names) as users,
        running(users.consumer()),
    ):
        yield users


def _requests(users: Consuming) -> list[Input]:
    """Good ones, and some that nobody can read."""
    topic = users.settings.users_requests_topic
    values = [request_xml(user_xml(f"{number}@example.com")) for number in range(GOOD)] + [b"<nonsense"] * BAD
    return [
        Input(topic, number % 3, 0, -1, b"%d" % number, value, tuple(ce(str(number))))
        for number, value in enumerate(values)
    ]


async def _nothing_is_dropped(kafka: Kafka, users: Consuming, reason: str) -> None:
    """All inputs are done with, all are answered, and the dead letters wait where nothing can lose them."""
    settings = users.settings
    # Nobody can write to the inbox, so nothing is done with, however long that takes.
    async with producing(kafka) as producer, users.connection.transaction():
        await users.connection.execute("LOCK TABLE inbox_messages")
        for each in _requests(users):
            await producer.send_and_wait(each.topic, each.value, key=each.key, partition=each.partition)
        await until(lambda: users.connection.fetchval(_IN_HAND))
        assert await lag(kafka, users) == GOOD + BAD, "Kafka was told before PostgreSQL"

    async def all_read() -> bool:
        # Whenever Kafka is told that all is done, PostgreSQL has it.
        if await lag(kafka, users):
            return False
        assert await _waiting(users) == BAD
        return True

    await until(all_read)
    assert len(await kafka.records(settings.users_responses_topic, at_least=GOOD + BAD)) == GOOD + BAD

    async def closed() -> object:
        return await users.connection.fetchval(
            "SELECT close_reason FROM outbox_topics WHERE topic = $1", settings.users_dead_letters_topic
        )

    assert str(await until(closed)) == reason
    labels = {"topic": settings.users_dead_letters_topic}
    alarms = REGISTRY.get_sample_value("outbox_topic_closed_total", labels | {"reason": reason})
    assert alarms is not None
    assert alarms >= 1
    assert await _waiting(users) == BAD, "a dead letter is gone"


async def _waiting(users: Consuming) -> int:
    """How many dead letters PostgreSQL holds."""
    return int(
        await users.connection.fetchval(
            "SELECT (SELECT count(*) FROM outbox_messages WHERE topic = $1) "
            "+ (SELECT count(*) FROM outbox_parked WHERE topic = $1)",
            users.settings.users_dead_letters_topic,
        )
    )


async def _they_arrive(kafka: Kafka, users: Consuming) -> None:
    """Each once, as it came."""
    records = await kafka.records(users.settings.users_dead_letters_topic, at_least=BAD)
    assert sorted((record.key, record.value) for record in records) == [
        (b"%d" % number, b"<nonsense") for number in range(GOOD, GOOD + BAD)
    ]
    assert len(await users.users()) == GOOD
    async with connect(users.settings.database_url.get_secret_value()) as connection:  # type: ignore[union-attr]  # is set
        assert not await connection.fetchval("SELECT count(*) FROM outbox_dead_letters"), (
            "a dead letter of dead letters"
        )


async def test_it_is_missing(kafka: RealKafka, database_url: str) -> None:
    missing = f"{await kafka.create_topic()}-dlq"
    async with _at_work(kafka, database_url, missing) as users:
        await _nothing_is_dropped(kafka, users, "UNKNOWN_TOPIC_OR_PARTITION")
        await kafka.create_topic(missing)
        await _they_arrive(kafka, users)


@pytest.mark.slow
async def test_nobody_may_write_to_it(private_kafka: PrivateKafka, database_url: str) -> None:
    kafka = await private_kafka(properties=AUTHORIZER)
    forbidden = await kafka.create_topic()
    await kafka.deny_writing(forbidden)
    async with _at_work(kafka, database_url, forbidden) as users:
        await _nothing_is_dropped(kafka, users, "TOPIC_AUTHORIZATION_FAILED")
        await kafka.allow_writing(forbidden)
        await _they_arrive(kafka, users)
