"""What the inbox remembers, counts and forgets."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest

from app import lifecycle
from app.inbox import store
from app.inbox.store import Entry, Place
from app.worker import Worker, end_when_hung
from tests.consuming import Consuming, consuming
from tests.waiting import until

_DAY = timedelta(days=1)


@pytest.fixture
async def inbox(database_url: str) -> AsyncIterator[Consuming]:
    async with consuming(database_url) as it:
        yield it


def _entries(*ids: str) -> list[Entry]:
    return [Entry(each, each.encode().ljust(32), "handled") for each in ids]


async def test_an_id_is_new_once_for_each_consumer(inbox: Consuming) -> None:
    async with inbox.sessions.begin() as session:
        assert await store.remember(session, "a", _entries("1", "2")) == {"1", "2"}
        assert await store.remember(session, "b", _entries("1")) == {"1"}
    async with inbox.sessions.begin() as session:
        assert await store.remember(session, "a", _entries("2", "3")) == {"3"}
        known = await store.fingerprints(session, "a", ["2", "4"])
    assert known == {"2": b"2".ljust(32)}


async def test_of_two_at_once_the_second_waits_and_then_knows(inbox: Consuming) -> None:
    async with inbox.sessions() as first, inbox.sessions() as second:
        assert await store.remember(first, "a", _entries("1")) == {"1"}
        waiting = asyncio.create_task(store.remember(second, "a", [Entry("1", b"x" * 32, "handled")]))

        async def waits() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%inbox_%'"
            return bool(await inbox.connection.fetchval(query))

        await until(waits)
        await first.commit()
        assert await waiting == set()
        # The INSERT's own snapshot is older than the winner; a statement of its own sees it.
        assert await store.fingerprints(second, "a", ["1"]) == {"1": b"1".ljust(32)}


async def test_attempts_are_counted_until_they_end(inbox: Consuming) -> None:
    place, later = Place("t", 0, 5), Place("t", 0, 6)
    for number in (1, 2, 3):
        async with inbox.sessions.begin() as session:
            assert (await store.begin_attempt(session, "a", place)).number == number
    async with inbox.sessions.begin() as session:
        assert (await store.begin_attempt(session, "a", later)).number == 1
        await store.end_attempt(session, "a", place)
        assert (await store.begin_attempt(session, "a", place)).number == 1
        assert (await store.begin_attempt(session, "a", later)).number == 2


async def test_a_name_left_behind_is_found_and_only_its_owner_takes_it_off(inbox: Consuming) -> None:
    first, second = uuid4(), uuid4()
    partitions = [("t", 0), ("t", 1)]
    async with inbox.sessions.begin() as session:
        assert await store.take_over(session, "a", partitions, first) == set()
        assert await store.take_over(session, "a", [("t", 1)], second) == {("t", 1)}
        await store.let_go(session, "a", first)
        assert await store.take_over(session, "a", partitions, second) == {("t", 1)}
        await store.let_go(session, "a", second)
        assert await store.take_over(session, "a", partitions, second) == set()


async def test_what_is_older_than_the_retention_is_forgotten_a_little_at_a_time(inbox: Consuming) -> None:
    async with inbox.sessions.begin() as session:
        await store.remember(session, "a", _entries(*map(str, range(10))))
        await store.remember(session, "b", _entries("1"))
    await inbox.connection.execute(
        "UPDATE inbox_messages SET handled_at = handled_at - interval '3 days' WHERE message_id < '6'"
    )
    for expected in (4, 2, 0):
        async with inbox.sessions.begin() as session:
            assert await store.forget(session, "a", retention=2 * _DAY, most=4) == expected
    assert await inbox.connection.fetchval("SELECT count(*) FROM inbox_messages") == 5


async def test_a_worker_forgets_and_stops_without_brokers(inbox: Consuming) -> None:
    async with inbox.sessions.begin() as session:
        await store.remember(session, "users", _entries("old", "new"))
    await inbox.connection.execute(
        "UPDATE inbox_messages SET handled_at = handled_at - interval '20 days' WHERE message_id = 'old'"
    )
    worker = Worker(inbox.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"}))
    stop = asyncio.Event()
    with end_when_hung(timedelta(seconds=60)):
        working = asyncio.create_task(worker.run(stop))

        async def forgotten() -> bool:
            left = await inbox.connection.fetch("SELECT message_id FROM inbox_messages")
            return [row["message_id"] for row in left] == ["new"]

        await until(forgotten)
        stop.set()
        await lifecycle.within(timedelta(seconds=20), _finished(working))


async def _finished(task: asyncio.Task[None]) -> None:
    await task
