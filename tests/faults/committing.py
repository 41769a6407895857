"""A consumer of users whose offsets are in trouble: held, refused, and told in the end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from app import lifecycle
from app.kafka.consumer import Consumer
from app.kafka.input import Input
from tests.consuming import Consuming, lag
from tests.services.kafka import Kafka
from tests.waiting import until

LONG = timedelta(seconds=60)


@asynccontextmanager
async def supervised(users: Consuming) -> AsyncIterator[Consumer[object]]:
    """A consumer that is started again when it fails, as a worker does it."""
    consumer, stop = users.consumer(), asyncio.Event()
    task = asyncio.create_task(lifecycle.supervise("users", lambda: consumer.run(stop), stop))
    try:
        yield consumer
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


@contextmanager
def held(consumer: Consumer[object]) -> Iterator[asyncio.Event]:
    """Until the end of the block its batches come no further than into its hands; set once there is one."""
    handle, entered, proceed = consumer._batches.handle, asyncio.Event(), asyncio.Event()

    async def wait(records: list[Input]) -> None:
        entered.set()
        await proceed.wait()
        await handle(records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consumer._batches, "handle", wait)
        try:
            yield entered
        finally:
            proceed.set()


def coordinator(consumer: Consumer[object]) -> Any:
    """The client library's side of the group."""
    assert consumer._member is not None
    return consumer._member._kafka._coordinator


async def lost() -> bool:
    """A heartbeat that never came, which the client does not know."""
    return True


async def effects(users: Consuming, number: int) -> None:
    """Each request has one user and one reply."""
    emails = sorted(row["email"] for row in await users.users())
    assert emails == sorted(f"{each}@example.com" for each in range(number))
    assert sorted(reply.key or b"" for reply in await users.owed()) == sorted(b"%d" % each for each in range(number))


async def told(kafka: Kafka, users: Consuming, sent: int) -> bool:
    """Is all told to Kafka? Whatever is, PostgreSQL has."""
    left = await lag(kafka, users)
    remembered = await users.connection.fetchval("SELECT count(*) FROM inbox_messages")
    assert remembered + left >= sent, "an offset is ahead of PostgreSQL"
    return left == 0


async def all_told(kafka: Kafka, users: Consuming, sent: int) -> None:
    """Wait until it is."""
    await until(lambda: told(kafka, users, sent), LONG)


class Refusals:
    """The offsets that brokers have refused since the block began, by the client's log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __bool__(self) -> bool:
        return any("OffsetCommit failed" in record.getMessage() for record in self._caplog.records)

    async def come(self, error: str) -> None:
        """Wait for one with this error."""

        async def refused() -> bool:
            lines = [record.getMessage() for record in self._caplog.records]
            return any("OffsetCommit failed" in line and error in line for line in lines)

        await until(refused, LONG)


@contextmanager
def refusals(caplog: pytest.LogCaptureFixture) -> Iterator[Refusals]:
    with caplog.at_level(logging.INFO, logger="aiokafka"):
        yield Refusals(caplog)
