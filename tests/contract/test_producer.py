"""What we rely on inside aiokafka: an abandoned producer leaves nothing running and sends nothing more.

The broker is the mock, on every backend: it can be silent on demand.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import pytest
from aiokafka.errors import ProducerClosed

from app.errors import BrokerUnavailable
from relay import producer as producers
from relay.producer import Producer, abandon
from tests.relaying import hurried, no_lost_errors
from tests.services.kafka import MockKafka
from tests.waiting import until

TOPIC = "topic"

Future = asyncio.Future[object]


@pytest.fixture
def kafka(mock_kafka: Callable[[], MockKafka]) -> MockKafka:
    kafka = mock_kafka()
    kafka.mock.create_topic(TOPIC, 2)
    return kafka


async def start(kafka: MockKafka) -> Producer:
    return await producers.start(hurried("postgresql://nobody@127.0.0.1/nothing", kafka.bootstrap_servers))


@pytest.fixture
async def producer(kafka: MockKafka) -> AsyncIterator[Producer]:
    """A producer that the test abandons; it must then be as if it had never been."""
    before = asyncio.all_tasks()
    with nothing_left_behind():
        producer = await start(kafka)
        await send(producer, b"first")
        yield producer
        assert producer._closed, "the test forgot to abandon it"
    await no_other_task_than(before)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    with no_lost_errors():
        yield


async def no_other_task_than(before: set[asyncio.Task[object]]) -> None:
    """Tasks may still be on their way out when they were cancelled; none may stay."""

    async def none_is_left() -> bool:
        here = {asyncio.current_task()}
        return not {task for task in asyncio.all_tasks() - before - here if not task.done()}

    await until(none_is_left, timedelta(seconds=1))


async def submit(producer: Producer, value: bytes, partition: int = 0) -> Future:
    """Hand a batch of one record to the producer; the future of its answer."""
    builder = producer.create_batch()
    builder.append(timestamp=None, key=b"k", value=value, headers=[])
    builder.close()
    future: Future = await producer.send_batch(builder, TOPIC, partition=partition)
    return future


async def send(producer: Producer, value: bytes) -> None:
    await (await submit(producer, value))


async def arrived(kafka: MockKafka) -> list[bytes | None]:
    """What the topic holds once another producer has had its turn in each partition."""
    other = await start(kafka)
    for partition in range(2):
        await (await submit(other, b"last", partition))
    await abandon(other)
    return [record.value for record in await kafka.records(TOPIC, at_least=2)]


def silence(kafka: MockKafka) -> None:
    """From now on the broker takes requests and answers nothing."""
    kafka.mock.set_round_trip_time(1, timedelta(minutes=1))


async def in_flight(producer: Producer) -> None:
    async def something_is() -> bool:
        return bool(producer.produce_tasks)

    await until(something_is)


async def is_told(future: Future) -> None:
    """Whoever still waits for the answer learns at once that there will be none."""
    with pytest.raises(ProducerClosed):
        async with asyncio.timeout(1):
            await future


async def test_abandoned_while_idle(kafka: MockKafka, producer: Producer) -> None:
    await abandon(producer)
    assert await arrived(kafka) == [b"first", b"last", b"last"]


async def test_abandoned_while_the_broker_is_frozen(kafka: MockKafka, producer: Producer) -> None:
    silence(kafka)
    sent = await submit(producer, b"in flight")
    await in_flight(producer)
    queued = await submit(producer, b"queued")
    other = await submit(producer, b"queued too", partition=1)
    async with asyncio.timeout(2):
        await abandon(producer)
    assert not producer.produce_tasks
    for future in (sent, queued, other):
        await is_told(future)
    kafka.mock.set_round_trip_time(1, timedelta(0))
    assert set(await arrived(kafka)) <= {b"first", b"in flight", b"last"}


async def test_abandoned_while_it_tries_again(kafka: MockKafka, producer: Producer) -> None:
    """The request has timed out once, and the batch waits to be sent anew."""
    silence(kafka)
    sent = await submit(producer, b"in flight")
    batches = producer._message_accumulator._pending_batches

    async def sent_twice() -> bool:
        return any(batch.retry_count > 1 for batch in batches)

    await until(sent_twice)
    async with asyncio.timeout(2):
        await abandon(producer)
    await is_told(sent)
    kafka.mock.set_round_trip_time(1, timedelta(0))
    assert set(await arrived(kafka)) <= {b"first", b"in flight", b"last"}


async def test_abandoned_while_connecting(kafka: MockKafka, producer: Producer) -> None:
    kafka.mock.set_down(1)

    async def connection_is_lost() -> bool:
        return not any(connection.connected() for connection in producer.client._conns.values())

    await until(connection_is_lost)
    sent = await submit(producer, b"never on its way")
    async with asyncio.timeout(2):
        await abandon(producer)
    await is_told(sent)
    kafka.mock.set_up(1)
    assert await arrived(kafka) == [b"first", b"last", b"last"]


async def test_an_abandoned_producer_takes_nothing_more(kafka: MockKafka, producer: Producer) -> None:
    await abandon(producer)
    with pytest.raises(ProducerClosed):
        await submit(producer, b"too late")
    await abandon(producer)


async def test_stop_is_never_used(kafka: MockKafka, producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for what cannot be delivered, and deliver it later."""

    async def stop(_: object) -> None:
        raise AssertionError("stop() was called")

    monkeypatch.setattr(Producer, "stop", stop)
    await abandon(producer)


@asynccontextmanager
async def mute_server() -> AsyncIterator[int]:
    """A port where somebody listens who never says a word."""
    connections: list[asyncio.StreamWriter] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.read()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in connections:
            writer.close()
            await writer.wait_closed()


async def test_a_start_that_fails_leaves_nothing() -> None:
    async with mute_server() as port:
        before = asyncio.all_tasks()
        with no_lost_errors():
            settings = hurried("postgresql://nobody@127.0.0.1/nothing", f"127.0.0.1:{port}")
            with pytest.raises(BrokerUnavailable):
                await producers.start(settings)
        assert await no_task_of_ours(before)


async def no_task_of_ours(before: set[asyncio.Task[object]]) -> bool:
    """The mute server's own connection may be among the new tasks."""

    async def only_the_server() -> bool:
        names = {str(task.get_coro()) for task in asyncio.all_tasks() - before if not task.done()}
        return all("listen" in name or "test_" in name for name in names)

    return await until(only_the_server, timedelta(seconds=1))


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    async with mute_server() as port:
        before = asyncio.all_tasks()
        with no_lost_errors():
            settings = hurried("postgresql://nobody@127.0.0.1/nothing", f"127.0.0.1:{port}", kafka_request_timeout=2.9)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await producers.start(settings)
        assert await no_task_of_ours(before)
