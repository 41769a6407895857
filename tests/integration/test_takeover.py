"""A relay dies or freezes with lanes in its hands; another one takes them."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import make_url

from app.errors import OutboxError
from relay import fetching, store
from tests.engine import Broker, assess, connect, empty, engine, settings
from tests.judge import verify
from tests.ledger import Added, Ledger
from tests.receipts import forget
from tests.relay_process import RelayProcess, relay_process
from tests.relaying import ONE_SLOT, running
from tests.services.kafka import Kafka, MockKafka
from tests.services.postgres import LocalPostgres
from tests.services.postgres_server import PostgresServer
from tests.waiting import until
from tests.writers import write

# As short as the settings allow: PostgreSQL must wait for a slot that waits for Kafka.
_PROCESS = {"publish_deadline": 1.5, "kafka_request_timeout": 1, "relay_idle_timeout": 9}
_LIMIT = timedelta(seconds=2)
_MARGIN = timedelta(seconds=4)
_SLOTS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay'"
_PUBLISHING = f"SELECT count(*) {_SLOTS} AND state = 'idle in transaction'"
_SENDING = f"SELECT count(*) {_SLOTS} AND wait_event = 'ClientWrite'"
_BIG = 60  # messages of 800 kB: more than the buffers of any socket


@asynccontextmanager
async def _publishing(
    database_url: str, ledger: Ledger, mock_kafka: Callable[[int], MockKafka]
) -> AsyncIterator[RelayProcess]:
    """A relay that has sent ten messages to a broker that does not answer."""
    kafka = mock_kafka(1)
    topic = await kafka.create_topic()
    async with relay_process(database_url, kafka.bootstrap_servers, **_PROCESS | ONE_SLOT) as relay:
        await ledger.fill(topic, messages=1)
        await empty(database_url)  # it knows the topic now
        ledger.messages.clear()
        kafka.mock.set_round_trip_time(1, timedelta(minutes=1))
        await ledger.fill(topic, messages=10)
        await until(lambda: ledger.connection.fetchval(_PUBLISHING))
        yield relay


async def test_killed_while_publishing(database_url: str, mock_kafka: Callable[[int], MockKafka]) -> None:
    broker = Broker()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with _publishing(database_url, ledger, mock_kafka) as relay, engine(database_url, broker):
            relay.signal(signal.SIGKILL)
            await until(lambda: _arrived(broker, 10), _MARGIN)  # its lanes are free at once, not when it has been idle
            await empty(database_url)
        await _judge(database_url, broker, ledger)


async def test_frozen_while_publishing(database_url: str, mock_kafka: Callable[[int], MockKafka]) -> None:
    broker = Broker()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with _publishing(database_url, ledger, mock_kafka) as relay, engine(database_url, broker):
            relay.signal(signal.SIGSTOP)
            started = time.monotonic()
            assert await connection.fetchval(_PUBLISHING), "it went on before it was stopped"
            await until(lambda: _arrived(broker, 10), timedelta(seconds=_PROCESS["relay_idle_timeout"]) + _MARGIN)
            assert time.monotonic() - started > 5, "its lanes were never held"
            await empty(database_url)
            relay.signal(signal.SIGCONT)  # a zombie that thaws can settle nothing, and works on with a new session
            slots = f"SELECT count(*) = 5 {_SLOTS}"
            await until(lambda: connection.fetchval(slots))
        await _judge(database_url, broker, ledger)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tcp_user_timeout is Linux's")
async def test_frozen_in_a_fetch_over_tcp(database_url: str) -> None:
    """No time-out of PostgreSQL ends a server that is sending; that of TCP does."""
    broker = Broker()
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with _frozen_in_a_fetch(database_url, ledger), engine(database_url, broker):
            await until(lambda: _arrived(broker, _BIG), _LIMIT + _MARGIN)
            await empty(database_url)
        await _judge(database_url, broker, ledger)


async def test_frozen_in_a_fetch_over_a_unix_socket(postgres: PostgresServer, database_url: str) -> None:
    """Nothing but another relay's housekeeping ends such a session."""
    if not isinstance(postgres, LocalPostgres) or postgres.socket_dir is None:
        pytest.skip("needs the Unix socket of a PostgreSQL on this machine")
    address = make_url(database_url)
    local = address.set(host=None, port=None).update_query_dict(
        {"host": str(postgres.socket_dir), "port": str(address.port)}
    )
    broker = Broker()
    keeper = settings(database_url).model_copy(update={"relay_transaction_limit": _LIMIT})
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with (
            _frozen_in_a_fetch(local.render_as_string(hide_password=False), ledger),
            running(keeper, broker.publisher),
        ):
            await until(lambda: _arrived(broker, _BIG), _LIMIT + _MARGIN)
            await empty(database_url)
        await _judge(database_url, broker, ledger)


@asynccontextmanager
async def _frozen_in_a_fetch(database_url: str, ledger: Ledger) -> AsyncIterator[None]:
    """A slot's session that does not read what the server sends, with all lanes in its hands."""
    lowered = settings(database_url).model_copy(update={"relay_idle_timeout": _LIMIT})
    slot = await store.connect(lowered)
    await ledger.fill("t", messages=_BIG, keys=1, size=800_000)
    await slot.execute("BEGIN")
    lanes = await store.claim(slot, range(32), limit=32)
    statement = await slot.prepare(fetching.FETCH)
    numbers, floors, parked = ([getattr(lane, name) for lane in lanes] for name in ("lane", "floor", "has_parked"))
    slot._transport.pause_reading()
    fetch = asyncio.create_task(statement.fetch(numbers, floors, 1000, 100_000_000, parked))
    try:
        await until(lambda: ledger.connection.fetchval(_SENDING))
        yield
    finally:
        slot._transport.resume_reading()
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, OutboxError):
            await fetch
        slot.terminate()
    assert fetch.exception() is not None, "the session lived on"


async def test_killed_again_and_again_under_load(database_url: str, kafka: Kafka) -> None:
    topics = [await kafka.create_topic(), await kafka.create_topic()]
    small = {"relay_batch_messages": 100, "relay_light_messages": 3}
    servers = kafka.bootstrap_servers
    enough = asyncio.Event()

    async def keep_writing() -> list[Added]:
        messages: list[Added] = []
        while not enough.is_set():
            messages += await write(database_url, topics, transactions=20, seed=len(messages))
        return messages

    async with connect(database_url) as connection, relay_process(database_url, servers, **small):
        writing = asyncio.create_task(keep_writing())
        for _ in range(3):
            async with relay_process(database_url, servers, **small) as victim:
                await until(lambda: connection.fetchval(_PUBLISHING))
                victim.signal(signal.SIGKILL)
                await victim.wait()
        enough.set()
        messages = await writing
        await verify(kafka, database_url, messages, repeats=3 * 4 * 100)


async def _arrived(broker: Broker, number: int) -> bool:
    return len(broker.records) >= number


async def _judge(database_url: str, broker: Broker, ledger: Ledger) -> None:
    """Whoever took over delivered each message once."""
    others = "SELECT message_id FROM outbox_receipts WHERE message_id <> ALL ($1)"
    rows = await ledger.connection.fetch(others, [message.message_id for message in ledger.messages])
    await forget(ledger.connection, [row[0] for row in rows])
    await assess(database_url, broker, ledger.messages)
