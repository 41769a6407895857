"""Making topics in Kafka, and reading them."""

import time
from datetime import timedelta
from uuid import uuid4

import pytest

from app.errors import BrokerUnavailable, ConfigurationError
from app.kafka import reader, topics
from app.kafka.topics import Created, Existing
from app.settings import Settings, load
from tests.command import outbox_aside
from tests.services.kafka import Kafka

_PATIENCE = timedelta(seconds=30)


def _settings(kafka: Kafka, **overrides: object) -> Settings:
    return load(_env_file=None, kafka_bootstrap_servers=kafka.bootstrap_servers, **overrides)


@pytest.mark.real_kafka
async def test_missing_topics_are_made_and_the_others_left_as_they_are(kafka: Kafka) -> None:
    there = await kafka.create_topic(partitions=2)
    missing = f"made-{uuid4()}"
    settings = _settings(kafka, topic_partitions=3)
    ensured = await topics.ensure(settings, [there, missing], patience=_PATIENCE)
    assert set(ensured) == {Created(missing, 3), Existing(there, 2, wanted=3)}
    again = await topics.ensure(settings, [missing, missing, there], patience=_PATIENCE)
    assert {each.topic: each.partitions for each in again} == {missing: 3, there: 2}
    assert {each.topic: each.differs for each in again if isinstance(each, Existing)} == {missing: False, there: True}


@pytest.mark.real_kafka
async def test_a_cluster_that_cannot_have_such_topics_is_the_settings_matter(kafka: Kafka) -> None:
    settings = _settings(kafka, topic_replication_factor=7)
    with pytest.raises(ConfigurationError, match="TOPIC_REPLICATION_FACTOR: there are fewer than 7 brokers"):
        await topics.ensure(settings, [f"made-{uuid4()}"], patience=_PATIENCE)


@pytest.mark.real_kafka
async def test_the_command_makes_ours_and_warns_of_other_numbers_of_partitions(kafka: Kafka) -> None:
    ours = f"made-{uuid4()}"
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "APPLICATIONS_TOPIC": ours}
    made = await outbox_aside("topics", "ensure", TOPIC_PARTITIONS="2", **environment)
    assert made.exit_code == 0
    assert f"{ours}: created with 2 partitions\n" in made.stdout
    differs = await outbox_aside("topics", "ensure", "--json", TOPIC_PARTITIONS="5", **environment)
    assert differs.exit_code == 0
    assert '"partitions": 2, "created": false' in differs.stdout
    assert f"warning: {ours} has 2 partitions, TOPIC_PARTITIONS says 5" in differs.stderr


async def test_without_a_broker_it_gives_up_in_time() -> None:
    settings = load(_env_file=None, kafka_bootstrap_servers="127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        await topics.ensure(settings, ["t"], patience=timedelta(seconds=0.5))
    assert time.monotonic() - started < 10
    with pytest.raises(BrokerUnavailable):
        await reader.read(settings, ["t"], enough=bool, patience=timedelta(seconds=0.5))


async def test_reading_ends_with_what_came_when_it_is_not_enough(kafka: Kafka) -> None:
    topic = await kafka.create_topic()
    assert await reader.read(_settings(kafka), [topic], enough=bool, patience=timedelta(seconds=2)) == []
