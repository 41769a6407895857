"""A relay that is frozen, cut off or hurt inside: others go on, and it comes back by itself."""

import asyncio
import signal
import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from relay.loop import Relay
from tests.armed import child
from tests.engine import connect, empty
from tests.failpoints import Action, Fault, armed
from tests.faults.watching import Watch
from tests.judge import verify
from tests.ledger import Added, Ledger
from tests.relaying import HURRIED, delivering, hurried, no_lost_errors, running
from tests.services.fixtures import Proxies
from tests.services.kafka import Kafka, Record
from tests.waiting import until

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]

_SLOTS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay'"
_HOLDS_LANES = f"SELECT count(*) {_SLOTS} AND state = 'idle in transaction'"
_ALL_SLOTS = f"SELECT count(*) = 8 {_SLOTS}"  # of two relays
_PATIENT = {"publish_deadline": 12, "relay_idle_timeout": 20}
# PostgreSQL has ended a slot's transaction by then, while housekeeping waits for it to be 60 s old.
_BY_POSTGRES = timedelta(seconds=45)
_AT_ONCE = timedelta(seconds=HURRIED["publish_deadline"] + 5)


def _came(records: Sequence[Record], messages: Sequence[Added]) -> list[int]:
    """How often each of these messages is there."""
    ids = [dict(record.headers)["ce_id"] for record in records]
    return [ids.count(str(message.message_id).encode()) for message in messages]


async def test_frozen_between_publishing_and_the_answer(kafka: Kafka, database_url: str) -> None:
    """PostgreSQL ends its transaction, another relay takes the lanes; awake again, it starts over."""
    topic = await kafka.create_topic(partitions=1)
    settings = {**HURRIED, **_PATIENT, "database_url": database_url, "relay_port": 0}
    settings |= {"kafka_bootstrap_servers": kafka.bootstrap_servers}
    fault = Fault("relay.after_send", Action.SLEEP, seconds=60)
    async with connect(database_url) as connection, connect(database_url) as watcher:
        ledger = Ledger(connection)
        sent = await ledger.fill(topic, messages=10)
        async with child("relay", fault=fault, settings=settings) as frozen:
            await frozen.says("relay.ready")
            await kafka.records(topic, at_least=10)  # the broker has them, the relay does not know
            frozen.signal(signal.SIGSTOP)
            assert await watcher.fetchval(_HOLDS_LANES), "it had given up before it was frozen"
            began = time.monotonic()
            async with running(hurried(database_url, kafka.bootstrap_servers)):
                await empty(database_url, _BY_POSTGRES)
                assert time.monotonic() - began > 5, "its lanes were never held"
                frozen.signal(signal.SIGCONT)
                await until(lambda: watcher.fetchval(_ALL_SLOTS))
                later = await ledger.fill(topic, messages=10)
                await empty(database_url)
            records = await verify(kafka, database_url, ledger.messages, repeats=10)
            await frozen.stop()
    assert _came(records, sent) == [2] * 10, "it was frozen somewhere else"
    assert _came(records, later) == [1] * 10


async def test_cut_off_from_postgres_while_it_publishes(kafka: Kafka, database_url: str, tcp_proxy: Proxies) -> None:
    """It cannot settle, notices that its lanes are lost, and sends nothing more until it is back."""
    topic = await kafka.create_topic(partitions=1)
    address = make_url(database_url)
    proxy = await tcp_proxy(address.host or "localhost", address.port or 5432)
    cut_off = hurried(proxy.through(database_url), kafka.bootstrap_servers)
    fault = Fault("relay.after_ack_before_settle", Action.SLEEP, seconds=1)
    async with connect(database_url) as connection, connect(database_url) as watcher:
        ledger = Ledger(connection)
        with no_lost_errors(), armed(fault) as arming:
            sent = await ledger.fill(topic, messages=10)
            async with delivering(cut_off):
                await asyncio.wait_for(arming.struck.wait(), 30)
                proxy.pause()
                meanwhile = await ledger.fill(topic, messages=10)
                began = time.monotonic()
                async with delivering(hurried(database_url, kafka.bootstrap_servers)):
                    await empty(database_url, _BY_POSTGRES)
                    assert time.monotonic() - began > 5, "its lanes were never held"
                    proxy.resume()
                    await until(lambda: watcher.fetchval(_ALL_SLOTS))
                    later = await ledger.fill(topic, messages=10)
                    await empty(database_url)
        records = await verify(kafka, database_url, ledger.messages, repeats=10)
    assert _came(records, sent) == [2] * 10
    assert _came(records, [*meanwhile, *later]) == [1] * 20


async def _slots_die(relay: Relay) -> int:
    """Cancel what the supervisors run."""
    names = {f"slot-{number}" for number in range(len(relay._slots))}
    found = [
        task
        for task in asyncio.all_tasks()
        if task.get_name() in names and getattr(task.get_coro(), "__qualname__", "") == "_run"
    ]
    for task in found:
        task.cancel()
    return len(found)


async def test_a_task_of_it_dies_in_silence(kafka: Kafka, database_url: str, watch: Watch) -> None:
    topic = await kafka.create_topic()
    # With one slot nobody else can do what the dead one leaves undone.
    async with running(hurried(database_url, kafka.bootstrap_servers, relay_slots=1)) as relay:
        await watch.delivered(await watch.fill(topic, messages=10))
        assert await _slots_die(relay) > 0
        await watch.delivered(await watch.fill(topic, messages=50), _AT_ONCE)
        await watch.delivered(await watch.fill(topic, messages=50), _AT_ONCE)
        await watch.verify(kafka, database_url)


async def test_a_writer_that_commits_long_after_the_others(kafka: Kafka, database_url: str) -> None:
    topic = await kafka.create_topic()
    async with (
        connect(database_url) as first,
        connect(database_url) as second,
        running(hurried(database_url, kafka.bootstrap_servers, relay_floor_interval=0.01)),
    ):
        late, others = Ledger(first), Ledger(second)
        transaction = first.transaction()
        await transaction.start()
        (message,) = await late.add(topic, [(b"late", b"")])
        for _ in range(20):  # in rounds of their own, so that the floors could rise
            await others.fill(topic, messages=50, keys=50)
            await until(lambda: second.fetchval("SELECT NOT EXISTS (TABLE outbox_messages)"))
        await transaction.commit()
        await empty(database_url, timedelta(seconds=10))
        records = await verify(kafka, database_url, [*late.messages, *others.messages])
    assert message.id < min(each.id for each in others.messages)
    assert _came(records, [message]) == [1]
