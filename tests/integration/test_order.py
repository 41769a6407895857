"""Messages of one key arrive in the order of their commits."""

import pytest

from tests.engine import Broker, assess, connect, empty, engine
from tests.judge import verify
from tests.ledger import Ledger
from tests.operating import pause, resume
from tests.relay_process import relay_process
from tests.services.kafka import Kafka
from tests.waiting import until
from tests.writers import write


@pytest.mark.real_kafka
async def test_two_relay_processes_keep_the_order_of_many_writers(database_url: str, kafka: Kafka) -> None:
    topics = [await kafka.create_topic(), await kafka.create_topic()]
    async with (
        relay_process(database_url, kafka.bootstrap_servers),
        relay_process(database_url, kafka.bootstrap_servers),
    ):
        messages = await write(database_url, topics, transactions=60)
        await verify(kafka, database_url, messages)


async def test_a_tombstone_does_not_overtake_messages_that_a_fetch_left_out_for_their_size(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        payloads = [None if number % 3 == 2 else b"x" * 100 for number in range(100)]
        await ledger.add("t", [(b"key", payload) for payload in payloads])
        async with engine(database_url, broker, relay_batch_bytes=150):
            await empty(database_url)
    await assess(database_url, broker, ledger.messages)


async def test_what_a_fetch_left_out_of_one_topic_is_not_overtaken_because_of_another(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection, connect(database_url) as other:
        ledger, of_other = Ledger(connection), Ledger(other)
        for topic in ("t", "u"):
            await pause(database_url, topic)
        async with engine(database_url, broker):
            await ledger.add("t", [(b"key", b"") for _ in range(20)])
            await until(lambda: other.fetchval("SELECT count(*) = 20 FROM outbox_parked"))
            late = connection.transaction()  # a smaller id than the message of `u`, but it comes up later
            await late.start()
            await ledger.add("t", [(b"key", b"late")])
            await of_other.add("u", [(b"key", b"")])
            await until(lambda: other.fetchval("SELECT count(*) = 21 FROM outbox_parked"))
        await late.commit()
        for topic in ("t", "u"):
            await resume(database_url, topic)
        async with engine(database_url, broker, relay_light_messages=5, relay_batch_messages=5):
            await empty(database_url)
    await assess(database_url, broker, ledger.messages + of_other.messages)
