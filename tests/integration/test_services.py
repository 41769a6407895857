"""The services that the other tests rely on: each does what its name says, on whatever backend runs."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError
from sqlalchemy import make_url

from tests.services.brokers import AUTHORIZER
from tests.services.fixtures import PrivateKafka, PrivatePostgres, Proxies
from tests.services.kafka import Kafka, MockKafka
from tests.services.postgres_server import PostgresServer, dsn

PATIENCE = 30  # seconds


async def scalar(url: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn(url), timeout=PATIENCE)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close(timeout=PATIENCE)


async def publish(kafka: Kafka, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all", request_timeout_ms=20_000)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def test_each_test_has_a_migrated_database_of_its_own(
    postgres: PostgresServer, database_url: str, empty_database_url: str
) -> None:
    sql = "SELECT to_regclass('outbox_messages') IS NOT NULL"
    assert await scalar(database_url, sql)
    assert not await scalar(empty_database_url, sql)
    assert await postgres.psql("SELECT 1; SELECT 2", database_url) == "1\n2"


async def test_what_was_published_is_read_back(kafka: Kafka) -> None:
    topic = await kafka.create_topic(partitions=3)
    await publish(kafka, topic, b"1", b"2", b"3")
    records = await kafka.records(topic, at_least=3)
    assert sorted(record.value or b"" for record in records) == [b"1", b"2", b"3"]
    with pytest.raises(AssertionError, match="3 records in"):
        await kafka.records(topic, at_least=4, timeout=timedelta(milliseconds=300))


@pytest.mark.real_kafka
async def test_a_topic_has_the_settings_it_was_made_with(kafka: Kafka) -> None:
    topic = await kafka.create_topic(partitions=1, max_message_bytes="1000")
    with pytest.raises(MessageSizeTooLargeError):
        await publish(kafka, topic, b"x" * 5000)


async def test_postgres_can_be_frozen_stopped_and_killed(private_postgres: PrivatePostgres) -> None:
    server = await private_postgres({"work_mem": "5MB"})
    assert await scalar(server.admin_url, "SHOW work_mem") == "5MB"
    connection = await asyncpg.connect(dsn(server.admin_url))
    await server.pause()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(dsn(server.admin_url), timeout=0.5)
    query = asyncio.create_task(connection.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([query], timeout=0.3)
    assert not done
    await server.resume()
    assert await asyncio.wait_for(query, PATIENCE) == 1
    for end in (server.kill, server.stop):
        await end()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(dsn(server.admin_url), timeout=PATIENCE)
        await server.start()
        assert await scalar(server.admin_url, "SELECT 1") == 1
    await connection.close(timeout=1)


@pytest.mark.real_kafka
async def test_a_broker_can_be_frozen_killed_and_stopped(private_kafka: PrivateKafka) -> None:
    kafka = await private_kafka(1, {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"})
    topic = await kafka.create_topic()
    await publish(kafka, topic, b"before")
    await kafka.brokers.pause(1)
    publishing = asyncio.create_task(publish(kafka, topic, b"frozen"))
    done, _ = await asyncio.wait([publishing], timeout=1)
    assert not done
    await kafka.brokers.resume(1)
    await asyncio.wait_for(publishing, PATIENCE)
    for end in (kafka.brokers.kill, kafka.brokers.stop_broker):
        await end(1)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(*kafka.bootstrap_servers.split(":"))
        await kafka.brokers.start_broker(1)
        await kafka.wait_until_ready(1)
    records = await kafka.records(topic, at_least=2)
    assert {record.value for record in records} == {b"before", b"frozen"}


@pytest.mark.real_kafka
@pytest.mark.slow
async def test_three_brokers_go_on_without_one_and_forbid_what_is_denied(
    private_kafka: PrivateKafka,
) -> None:
    kafka = await private_kafka(3, AUTHORIZER)
    topic = await kafka.create_topic(partitions=3)
    await kafka.brokers.kill(2)
    await publish(kafka, topic, b"1")
    await kafka.deny_writing(topic)
    with pytest.raises(TopicAuthorizationFailedError):
        await publish(kafka, topic, b"2")
    await kafka.allow_writing(topic)
    await publish(kafka, topic, b"3")
    assert {record.value for record in await kafka.records(topic, at_least=2)} == {b"1", b"3"}


async def test_the_mock_answers_with_the_error_it_is_told(mock_kafka: Callable[[], MockKafka]) -> None:
    kafka = mock_kafka()
    topic = await kafka.create_topic(partitions=1)
    kafka.mock.push_request_errors(0, [10])  # Produce, MESSAGE_TOO_LARGE
    with pytest.raises(MessageSizeTooLargeError):
        await publish(kafka, topic, b"1")
    await publish(kafka, topic, b"2")
    assert [record.value for record in await kafka.records(topic, at_least=1)] == [b"2"]


async def test_the_network_can_be_cut_frozen_and_slow(database_url: str, tcp_proxy: Proxies) -> None:
    address = make_url(database_url)
    assert address.host
    assert address.port
    proxy = await tcp_proxy(address.host, address.port)
    url = dsn(proxy.through(database_url))
    connection = await asyncpg.connect(url)
    proxy.delay = timedelta(milliseconds=50)
    start = time.monotonic()
    await connection.execute("SELECT 1")
    assert time.monotonic() - start >= 0.1  # there and back
    proxy.pause()
    query = asyncio.create_task(connection.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([query], timeout=0.3)
    assert not done
    proxy.resume()
    assert await asyncio.wait_for(query, PATIENCE) == 1
    await proxy.cut()
    with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        await connection.execute("SELECT 1")
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncpg.connect(url, timeout=PATIENCE)
    await proxy.restore()
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    await connection.close(timeout=PATIENCE)
