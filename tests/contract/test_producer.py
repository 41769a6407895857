"""An abandoned producer leaves nothing running and sends nothing more, whatever aiokafka's connections were doing.

The broker is the mock, on every backend: it can be silent on demand.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiokafka.errors import KafkaError, ProducerClosed, RequestTimedOutError

from app import failpoints
from app.errors import BrokerUnavailable
from relay import producer as producers
from relay.producer import UNSURE, Place, Producer
from relay.records import pack
from tests.contract.carrying import message
from tests.relaying import hurried, no_lost_errors
from tests.services.kafka import MockKafka
from tests.waiting import until

TOPIC = "topic"

_AT_ONCE = 5.0  # seconds; the brokers are silent for a minute

Sending = asyncio.Task[dict[Place, int | KafkaError]]


@pytest.fixture
def kafka(mock_kafka: Callable[[int], MockKafka]) -> MockKafka:
    """Two brokers, each with a partition."""
    kafka = mock_kafka(2)
    kafka.mock.create_topic(TOPIC, 2)
    for partition in range(2):
        kafka.mock.set_leader(TOPIC, partition, partition + 1)
    return kafka


async def start(kafka: MockKafka) -> Producer:
    return await producers.start(hurried("postgresql://nobody@127.0.0.1/nothing", kafka.bootstrap_servers))


@pytest.fixture
async def producer(kafka: MockKafka) -> AsyncIterator[Producer]:
    """A producer that the test abandons; it must then be as if it had never been."""
    with no_lost_errors():
        producer = await start(kafka)
        await send(producer, b"first")
        yield producer
        await producers.abandon(producer)  # for a test that failed before it did


async def abandon(producer: Producer) -> None:
    """Abandon it; not one of its tasks may outlive that."""
    async with asyncio.timeout(_AT_ONCE):
        await producers.abandon(producer)
    await no_task_of_a_producer()


async def no_task_of_a_producer() -> None:
    for _ in range(5):
        await asyncio.sleep(0)  # those that were cancelled end now
    left = [task.get_coro() for task in asyncio.all_tasks() if not task.done()]
    assert not [coro for coro in left if is_of_a_producer(coro)], left


def is_of_a_producer(coro: object) -> bool:
    where: str = getattr(coro, "cr_code").co_filename  # noqa: B009 - known to be a coroutine
    return "aiokafka" in where or where == producers.__file__


def submit(producer: Producer, value: bytes, partition: int = 0) -> Sending:
    """Send a batch of one record to the partition's leader."""
    batch, _ = pack([message(TOPIC, b"k", value)], 0, 1, timestamp=0, compression="none", size=1)
    encoded = producer.encode((TOPIC, partition), batch)
    leader = producer.leader(TOPIC, partition)
    assert leader is not None
    return asyncio.create_task(producer.send(leader, {(TOPIC, partition): encoded}))


async def send(producer: Producer, value: bytes, partition: int = 0) -> None:
    await producer.await_partitions(TOPIC)
    assert not isinstance((await submit(producer, value, partition))[TOPIC, partition], KafkaError)


async def arrived(kafka: MockKafka) -> list[bytes | None]:
    """What the topic holds once another producer has had its turn in each partition."""
    other = await start(kafka)
    for partition in range(2):
        await send(other, b"last", partition)
    await abandon(other)
    return [record.value for record in await kafka.records(TOPIC, at_least=2)]


def silence(kafka: MockKafka, duration: timedelta = timedelta(minutes=1)) -> None:
    """From now on the brokers take requests and answer nothing."""
    for broker in (1, 2):
        kafka.mock.set_round_trip_time(broker, duration)


async def is_told(sending: Sending) -> None:
    """Whoever still waits for the answer learns at once that there will be none."""
    with pytest.raises(UNSURE):
        async with asyncio.timeout(_AT_ONCE):
            await sending


async def test_abandoned_while_idle(kafka: MockKafka, producer: Producer) -> None:
    await abandon(producer)
    assert await arrived(kafka) == [b"first", b"last", b"last"]


async def test_abandoned_while_the_brokers_are_frozen(kafka: MockKafka, producer: Producer) -> None:
    await send(producer, b"first", 1)
    silence(kafka)
    sent = [submit(producer, b"in flight", partition) for partition in range(2)]

    async def both_are_on_their_way() -> bool:
        return sum(len(connection._requests) for connection in producer.client._conns.values()) == 2

    await until(both_are_on_their_way)
    await abandon(producer)
    for sending in sent:
        await is_told(sending)
    silence(kafka, timedelta(0))
    assert set(await arrived(kafka)) <= {b"first", b"in flight", b"last"}


async def test_abandoned_after_a_request_that_had_no_answer(kafka: MockKafka, producer: Producer) -> None:
    silence(kafka)
    with pytest.raises(RequestTimedOutError):
        await submit(producer, b"in flight")
    assert not is_connected(producer, 1)
    await abandon(producer)
    silence(kafka, timedelta(0))
    assert set(await arrived(kafka)) <= {b"first", b"in flight", b"last"}


@pytest.mark.parametrize("point", ["relay.after_send", None])
async def test_cancelled_on_the_way_and_then_abandoned(
    kafka: MockKafka, producer: Producer, monkeypatch: pytest.MonkeyPatch, point: str | None
) -> None:
    silence(kafka)
    reached = asyncio.Event()

    async def wait_here(name: str) -> None:
        reached.set()
        if name == point:
            await asyncio.sleep(60)

    with monkeypatch.context() as armed:
        armed.setattr(failpoints, "hook", wait_here)
        sending = submit(producer, b"in flight")
        await reached.wait()
    await asyncio.sleep(0)  # it waits, here or there
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await abandon(producer)
    silence(kafka, timedelta(0))
    assert set(await arrived(kafka)) <= {b"first", b"in flight", b"last"}


def is_connected(producer: Producer, broker: int) -> bool:
    return any(node == broker and conn.connected() for (node, _), conn in producer.client._conns.items())


async def test_cancelled_while_connecting(kafka: MockKafka, producer: Producer) -> None:
    kafka.mock.set_down(1)
    kafka.mock.set_down(2)

    async def connection_is_lost() -> bool:
        return not is_connected(producer, 1)

    await until(connection_is_lost)
    sending = submit(producer, b"never on its way")
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])
    await abandon(producer)
    kafka.mock.set_up(1)
    kafka.mock.set_up(2)
    assert await arrived(kafka) == [b"first", b"last", b"last"]


async def test_an_abandoned_producer_takes_nothing_more(kafka: MockKafka, producer: Producer) -> None:
    await abandon(producer)
    with pytest.raises(ProducerClosed):
        await submit(producer, b"too late")
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
        with no_lost_errors():
            settings = hurried("postgresql://nobody@127.0.0.1/nothing", f"127.0.0.1:{port}")
            with pytest.raises(BrokerUnavailable):
                await producers.start(settings)
            await no_task_of_a_producer()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    async with mute_server() as port:
        with no_lost_errors():
            settings = hurried("postgresql://nobody@127.0.0.1/nothing", f"127.0.0.1:{port}", kafka_request_timeout=2.9)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await producers.start(settings)
            await no_task_of_a_producer()
