"""Many trials at once, each with a database of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import pytest

from tests.relaying import no_lost_errors
from tests.services.kafka import Kafka
from tests.services.postgres_server import PostgresServer
from tests.waiting import until

Trial = Callable[[str, str, Kafka], Awaitable[None]]
"""Let something happen at this point, with this database and this Kafka, and judge what came of it."""

_AT_ONCE = 6
"""They mostly wait: for brokers that miss the dead, and for leases that end."""


class Everywhere(Protocol):
    async def __call__(self, points: Iterable[str], trial: Trial) -> None: ...


@pytest.fixture
def everywhere(postgres: PostgresServer, template_database: str, kafka: Kafka) -> Everywhere:
    """Make this trial at each of these points. One that fails says at which."""

    async def run(points: Iterable[str], trial: Trial) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(point: str) -> None:
            async with turns:
                url = await postgres.create_database(template_database)
                try:
                    await trial(point, url, kafka)
                except BaseException as error:
                    error.add_note(f"the fault was at {point}")
                    raise
                finally:
                    await postgres.drop_database(url)

        before = asyncio.all_tasks()
        with no_lost_errors():
            async with asyncio.TaskGroup() as group:
                for point in points:
                    group.create_task(one(point), name=point)
            await until(lambda: _nothing_is_left(before))

    return run


async def _nothing_is_left(before: set[asyncio.Task[Any]]) -> bool:
    """Have all tasks ended that were begun since then? What was given up may still clean up."""
    return not {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
