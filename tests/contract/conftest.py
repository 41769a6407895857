from collections.abc import AsyncIterator

import pytest

from tests.contract.stages import InMemory, OnKafka, Stage, open_publisher
from tests.services.kafka import Kafka


@pytest.fixture(params=["kafka", "memory"])
async def stage(request: pytest.FixtureRequest, kafka: Kafka) -> AsyncIterator[Stage]:
    async with open_publisher(OnKafka(kafka) if request.param == "kafka" else InMemory()) as stage:
        yield stage
