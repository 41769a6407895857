"""What the auditor cannot judge, and says so."""

from collections.abc import AsyncIterator

import pytest

from app.audit import Scope
from app.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable, NotFound, SchemaError
from tests.auditing import Scene, scene_on
from tests.services.kafka import Kafka
from tests.services.ports import free_port


@pytest.fixture
async def scene(database_url: str, kafka: Kafka) -> AsyncIterator[Scene]:
    async with scene_on(database_url, kafka) as scene:
        yield scene


async def test_a_topic_that_nobody_knows(scene: Scene) -> None:
    with pytest.raises(NotFound, match="no-such-topic"):
        await scene.audited(Scope(topics=("no-such-topic",)))


async def test_without_receipts_there_is_nothing_to_say(database_url: str, kafka: Kafka) -> None:
    async with scene_on(database_url, kafka, receipts=False) as scene:
        with pytest.raises(ConfigurationError, match="RECEIPTS"):
            await scene.audited()


async def test_services_that_are_not_there(scene: Scene, empty_database_url: str) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    scene.settings = scene.settings.model_copy(update={"kafka_bootstrap_servers": nowhere})
    with pytest.raises(BrokerUnavailable):
        await scene.audited()
    async with scene_on(empty_database_url, scene.kafka) as bare:
        with pytest.raises(SchemaError, match="outbox migrate"):
            await bare.audited()
        bare.settings = scene.settings.model_copy(
            update={"postgres_host": "127.0.0.1", "postgres_port": free_port(), "database_url": None}
        )
        with pytest.raises(DatabaseUnavailable):
            await bare.audited()
