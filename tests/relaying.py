"""The real relay in the test's own process, hurried, and watched for errors that nobody would see."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from app.settings import Settings, load
from relay.loop import Relay
from relay.outcomes import Publisher
from relay.publisher import KafkaPublisher
from tests import collector

HURRIED = {
    "publish_deadline": 3,
    "kafka_request_timeout": 1,
    "relay_idle_timeout": 11,
    "relay_probe_min": 0.1,
    "relay_probe_max": 1,
}
"""Deadlines for tests that wait for them; all of them fit together."""


ONE_SLOT = {"relay_slots": 1}
"""For a broker that falls silent: another slot might make its first producer then, find no broker, and open the breaker
for nothing sent."""


def hurried(database_url: str, bootstrap_servers: str, **overrides: object) -> Settings:
    return load(
        _env_file=None,
        database_url=database_url,
        kafka_bootstrap_servers=bootstrap_servers,
        **HURRIED | overrides,
    )


@asynccontextmanager
async def running(settings: Settings, publisher: Callable[[], Publisher] | None = None) -> AsyncIterator[Relay]:
    """A relay that runs until the end of the block; it must then stop by itself, in time and leaving nothing behind."""
    with no_lost_errors():
        before = asyncio.all_tasks()
        async with delivering(settings, publisher) as relay:
            yield relay
        here = {asyncio.current_task()}  # a fixture's end is a task of its own
        left = {str(task) for task in asyncio.all_tasks() - before - here if not task.done()}
        assert not left, f"the relay left tasks behind: {left}"


@asynccontextmanager
async def delivering(settings: Settings, publisher: Callable[[], Publisher] | None = None) -> AsyncIterator[Relay]:
    """The same among other tasks that come and go: what it leaves behind cannot be told from theirs."""
    relay = Relay(settings, publisher or (lambda: KafkaPublisher(settings)))
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield relay
    finally:
        stop.set()
        async with asyncio.timeout(settings.publish_deadline.total_seconds() + 5):
            await task


@contextmanager
def no_lost_errors() -> Iterator[None]:
    """Fail when the event loop complains: of an exception that nobody asked for, of one in a callback, and so on."""
    loop, complaints = asyncio.get_running_loop(), list[dict[str, Any]]()
    previous = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    # The collector rests meanwhile: what is made stays in the youngest generation, or, where a block inside this one
    # has searched that, in the middle one. The oldest, with all that was there before, need not be searched.
    try:
        with collector.at_rest() as outermost:
            yield
            gc.collect(1 if outermost else 0)
    finally:
        loop.set_exception_handler(previous)
    assert not complaints, complaints
