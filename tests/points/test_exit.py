"""Every point of the product × the death of its process, as after kill -9. The next process finds all in order."""

from tests.points import answering, asking, ingesting, relaying
from tests.points.conftest import Everywhere


async def test_a_relay_that_dies_anywhere(everywhere: Everywhere) -> None:
    await everywhere(relaying.POINTS, relaying.die_at)


async def test_an_api_that_dies_anywhere(everywhere: Everywhere) -> None:
    await everywhere(answering.POINTS, answering.die_at)


async def test_a_worker_that_dies_anywhere(everywhere: Everywhere) -> None:
    await everywhere(ingesting.POINTS, ingesting.die_at)


async def test_a_process_of_tasks_that_dies_anywhere(everywhere: Everywhere) -> None:
    await everywhere(asking.POINTS, asking.die_at)
