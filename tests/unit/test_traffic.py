"""Who works when: one slot on duty, all under pressure, and none left resting when the relay stops."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from relay.traffic import Traffic


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def slots(traffic: Traffic, *names: str) -> Iterator[dict[str, asyncio.Task[None]]]:
    """Slots that ask for their turn."""
    tasks = {name: asyncio.create_task(traffic.turn(name)) for name in names}
    yield tasks
    for task in tasks.values():
        task.cancel()


def working(tasks: dict[str, asyncio.Task[None]]) -> set[str]:
    return {name for name, task in tasks.items() if task.done() and not task.cancelled()}


async def test_one_slot_is_on_duty_and_the_others_rest() -> None:
    traffic = Traffic()
    with slots(traffic, "a", "b", "c") as tasks:
        await settle()
        assert working(tasks) == {"a"}
        assert traffic.on_duty("a")
        assert not traffic.on_duty("b")
        await traffic.turn("a")  # at once, again and again


async def test_a_slot_that_is_busy_for_long_hands_over_to_one_other() -> None:
    traffic = Traffic()
    with slots(traffic, "a", "b", "c") as tasks:
        await settle()
        traffic.hand_over("a")
        await settle()
        assert working(tasks) == {"a", "b"}
        assert traffic.on_duty("b")
        traffic.hand_over("a")  # it has no duty to hand over
        await settle()
        assert working(tasks) == {"a", "b"}


async def test_under_pressure_everybody_works() -> None:
    traffic = Traffic()
    with slots(traffic, "a", "b", "c") as tasks:
        await settle()
        traffic.call_all()
        await settle()
        assert working(tasks) == {"a", "b", "c"}
        traffic.relax()
        again = asyncio.create_task(traffic.turn("b"))
        await settle()
        assert not again.done()
        again.cancel()


async def test_a_slot_that_is_cancelled_while_resting_does_not_swallow_the_duty() -> None:
    traffic = Traffic()
    with slots(traffic, "a", "b", "c") as tasks:
        await settle()
        tasks["b"].cancel()
        await settle()
        traffic.hand_over("a")
        await settle()
        assert working(tasks) == {"a", "c"}


async def test_release_wakes_all() -> None:
    traffic = Traffic()
    with slots(traffic, "a", "b", "c") as tasks:
        await settle()
        traffic.release()
        await settle()
        assert working(tasks) == {"a", "b", "c"}
