"""Requests out of Kafka: in order, once, whatever happens in between."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import REGISTRY
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BrokerUnavailable, DatabaseUnavailable, Unavailable
from app.kafka.batch import Undecodable
from app.kafka.input import Input
from app.outbox import OutboxMessage
from app.users.consumer import UsersHandler
from app.users.documents import Request
from tests.consuming import (
    Consuming,
    answered,
    ce,
    consuming,
    kafka_settings,
    lag,
    producing,
    request_xml,
    running,
    send,
    user_xml,
)
from tests.services.fixtures import Proxies
from tests.services.kafka import Kafka
from tests.waiting import until


@pytest.fixture
async def users(database_url: str, kafka: Kafka) -> AsyncIterator[Consuming]:
    async with consuming(database_url, **await kafka_settings(kafka)) as it:
        yield it


async def test_sent_while_the_service_was_down_and_while_it_runs(kafka: Kafka, users: Consuming) -> None:
    await send(kafka, users, range(100))
    async with running(users.consumer()):
        await answered(users, 100)
        await send(kafka, users, range(100, 200))
        await answered(users, 200)
    assert len(await users.users()) == 200
    assert await users.connection.fetchval("SELECT count(*) FROM inbox_messages") == 200
    # It stopped tidily: nothing is left to be careful about, and nothing comes again.
    assert await users.connection.fetchval("SELECT count(*) FROM inbox_assignments") == 0
    assert await lag(kafka, users) == 0


async def test_without_ids_a_restart_repeats_nothing(kafka: Kafka, users: Consuming) -> None:
    await send(kafka, users, range(30), ids=False)
    for _ in range(2):
        async with running(users.consumer()):
            await answered(users, 30)


class _Fragile(UsersHandler):
    """Fails at some emails, in one of three ways."""

    def __init__(self, users: Consuming, *, fails: str = "", dies: str = "") -> None:
        super().__init__(users.settings)
        self.fails, self.dies = fails, dies
        self.seen: list[int] = []

    def decode(self, record: Input) -> Request | Undecodable:
        self.seen.append(record.offset)
        if self.dies and self.dies.encode() in (record.value or b""):
            raise _Killed
        return super().decode(record)

    async def handle(self, session: AsyncSession, inputs: Sequence[tuple[Input, Request]]) -> list[OutboxMessage]:
        replies = await super().handle(session, inputs)
        if any(self.fails and self.fails.encode() in (record.value or b"") for record, _ in inputs):
            raise RuntimeError("cannot be handled")
        return replies


class _Killed(BaseException):
    """Nothing catches it: it stands for the end of the process."""


async def test_a_failing_message_is_a_dead_letter_and_its_mates_do_not_suffer(kafka: Kafka, users: Consuming) -> None:
    await send(kafka, users, range(50))
    async with running(users.consumer(_Fragile(users, fails="13@example.com"))):
        await answered(users, 51)
    assert len(await users.users()) == 49
    (letter,) = await users.dead_letters()
    assert letter.key == b"13"
    assert (letter.headers["dlq.reason"], letter.headers["dlq.attempts"]) == (b"ATTEMPTS_EXHAUSTED", b"4")
    assert await users.connection.fetchval("SELECT count(*) FROM inbox_attempts") == 0
    assert await lag(kafka, users) == 0


@pytest.mark.parametrize("crash", ["after fetch", "before commit", "after commit", "before offset", "after offset"])
async def test_a_crash_at_any_point_repeats_nothing(
    kafka: Kafka, users: Consuming, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(kafka, users, range(40))
    consumer = users.consumer()
    member = consumer._batches
    whole = member.handle

    async def handle(records: Sequence[Input]) -> None:
        if crash == "after fetch":
            raise _Killed
        await whole(records)
        if crash == "after commit":
            raise _Killed

    async def work_that_dies(session: AsyncSession, *_: Any) -> Any:
        raise _Killed

    real_commit = AIOKafkaConsumer.commit

    async def commit(self: AIOKafkaConsumer, offsets: object = None) -> None:
        if crash == "before offset":
            raise _Killed
        await real_commit(self, offsets)
        if crash == "after offset":
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(member, "handle", handle)
        patch.setattr(AIOKafkaConsumer, "commit", commit)
        if crash == "before commit":
            patch.setattr(member._handler, "handle", work_that_dies)
        with pytest.raises(_Killed):
            await consumer.run(asyncio.Event())

    async def all_consumed() -> bool:
        return await lag(kafka, users) == 0

    async with running(users.consumer()):
        await until(all_consumed)
    assert len(await users.users()) == 40
    assert len(await users.owed()) == 40


async def test_what_kills_its_reader_is_a_dead_letter_after_some_attempts(kafka: Kafka, users: Consuming) -> None:
    await send(kafka, users, range(60))
    deaths = 0
    for _ in range(10):
        handler = _Fragile(users, dies="31@example.com")
        stop = asyncio.Event()
        task = asyncio.create_task(users.consumer(handler).run(stop))

        async def done(task: asyncio.Task[None] = task) -> bool:
            return task.done() or len(await users.owed()) == 61

        await until(done)
        stop.set()
        try:
            await task
        except _Killed:
            deaths += 1
        else:
            break
    # Once in a batch, then as often as is allowed.
    assert deaths == users.settings.consumer_max_attempts + 1
    assert len(await users.users()) == 59
    (letter,) = await users.dead_letters()
    assert letter.key == b"31"
    assert letter.headers["dlq.attempts"] == b"4"


async def test_what_hangs_the_parser_is_a_dead_letter_after_some_attempts(kafka: Kafka, users: Consuming) -> None:
    release = threading.Event()

    class Hanging(UsersHandler):
        def decode(self, record: Input) -> Request | Undecodable:
            if len(record.value or b"") > 20_000:
                release.wait()
            return super().decode(record)

    async with producing(kafka) as producer:
        topic = users.settings.users_requests_topic
        await producer.send(topic, request_xml(user_xml(name="x" * 30_000)), partition=1, headers=ce("hangs"))
        await producer.flush()
    await send(kafka, users, range(20))
    users.settings = users.settings.model_copy(update={"consumer_decode_deadline": users.settings.relay_poll_max})
    try:
        async with running(users.consumer(Hanging(users.settings))):
            await answered(users, 22)
    finally:
        release.set()
    assert [letter.headers["dlq.reason"] for letter in await users.dead_letters()] == [b"ATTEMPTS_EXHAUSTED"]
    assert len(await users.users()) == 20


async def test_database_away_nothing_is_answered_lost_or_dead_lettered(
    kafka: Kafka, database_url: str, tcp_proxy: Proxies
) -> None:
    address = make_url(database_url)
    proxy = await tcp_proxy(address.host or "localhost", address.port or 5432)
    settings = {**await kafka_settings(kafka), "consumer_database_deadline": 2.0}
    async with consuming(database_url, through=proxy, **settings) as users, running(users.consumer()):
        await send(kafka, users, range(10))
        await answered(users, 10)
        await proxy.cut()
        await send(kafka, users, range(10, 20))

        async def tried() -> bool:
            failures = REGISTRY.get_sample_value(
                "consumer_failures_total", {"consumer": users.settings.users_group, "reason": "unavailable"}
            )
            return (failures or 0) >= 3

        await until(tried)
        assert len(await users.owed()) == 10
        await proxy.restore()
        await answered(users, 20)
        proxy.pause()
        await send(kafka, users, range(20, 30))
        proxy.resume()
        await answered(users, 30)
        assert len(await users.users()) == 30
        assert await users.dead_letters() == []


async def test_stopping_does_not_wait_for_a_database_that_is_away(
    kafka: Kafka, users: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(kafka, users, range(5))
    consumer = users.consumer()
    stop = asyncio.Event()
    failed = asyncio.Event()

    async def away(*_: object) -> None:
        failed.set()
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(consumer._batches, "in_transaction", away)
    task = asyncio.create_task(consumer.run(stop))
    await failed.wait()
    stop.set()
    async with asyncio.timeout(10):
        await task
    async with running(users.consumer()):
        await answered(users, 5)


async def test_a_group_without_brokers_is_not_ready(users: Consuming) -> None:
    users.settings = users.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    consumer = users.consumer()
    with pytest.raises(BrokerUnavailable):
        await consumer.run(asyncio.Event())
    with pytest.raises(Unavailable, match="does not run"):
        await consumer.check()


async def test_poison_among_good_ones_keeps_their_order(kafka: Kafka, users: Consuming) -> None:
    topic = users.settings.users_requests_topic
    async with producing(kafka) as producer:
        for number in range(100):
            value = b"<poison" if number % 10 == 9 else request_xml(user_xml(f"{number}@example.com"))
            await producer.send(topic, value, key=b"one", headers=ce(str(number)))
        await producer.flush()
    async with running(users.consumer()):
        await answered(users, 110)
    offsets = [int(reply.headers["source-offset"]) for reply in await users.replies()]
    assert len(set(offsets)) == 100
    good = [int(each.headers["source-offset"]) for each in await users.replies() if "error-code" not in each.headers]
    assert good == sorted(good)
    assert len(good) == 90
    assert len(await users.dead_letters()) == 10
