"""Every point of the product × the death of its process, as after kill -9. The next process finds all in order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from tests.points import answering, relaying
from tests.services.kafka import Kafka
from tests.services.postgres_server import PostgresServer

Trial = Callable[[str, str, Kafka], Awaitable[None]]

_AT_ONCE = 4
"""They mostly wait: for brokers that miss the dead, and for leases that end."""


@pytest.fixture
def everywhere(postgres: PostgresServer, template_database: str, kafka: Kafka) -> Callable[..., Awaitable[None]]:
    """Let a process die at each of these points, each in a database of its own."""

    async def die(points: Iterable[str], trial: Trial) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(point: str) -> None:
            async with turns:
                url = await postgres.create_database(template_database)
                try:
                    await trial(point, url, kafka)
                except BaseException as error:
                    error.add_note(f"a process died at {point}")
                    raise
                finally:
                    await postgres.drop_database(url)

        async with asyncio.TaskGroup() as group:
            for point in points:
                group.create_task(one(point))

    return die


async def test_a_relay_that_dies_anywhere(everywhere: Callable[..., Awaitable[None]]) -> None:
    await everywhere(relaying.POINTS, relaying.die_at)


async def test_an_api_that_dies_anywhere(everywhere: Callable[..., Awaitable[None]]) -> None:
    await everywhere(answering.POINTS, answering.die_at)
