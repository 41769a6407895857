"""Somebody holds a snapshot for hours: vacuum removes nothing, and delivering gets no slower.

Pages are counted, not seconds: what a busy machine takes longer for says nothing. Rates are measured by
`make bench snapshot`.
"""

from collections.abc import Callable

import asyncpg
import pytest

from app.settings import Settings
from relay import fetching, store, work
from relay.outcomes import Publisher
from tests.engine import Broker, assess, connect, empty, settings
from tests.explain import array, explain
from tests.judge import verify
from tests.ledger import Added, Ledger
from tests.relaying import running
from tests.services.kafka import Kafka

ROUNDS, MESSAGES = 7, 10_000
_USUAL = {"relay_floor_interval": 1, "publish_deadline": 20, "relay_idle_timeout": 30}


async def test_rounds_stay_as_cheap_as_the_first(database_url: str) -> None:
    broker = Broker()
    messages = await _rounds_stay_cheap(database_url, settings(database_url, **_USUAL), "t", broker.publisher)
    await assess(database_url, broker, messages)


@pytest.mark.real_kafka
async def test_rounds_stay_as_cheap_on_a_real_broker(kafka: Kafka, database_url: str) -> None:
    usual = settings(database_url, kafka_bootstrap_servers=kafka.bootstrap_servers, **_USUAL)
    messages = await _rounds_stay_cheap(database_url, usual, await kafka.create_topic())
    await verify(kafka, database_url, messages)


async def _rounds_stay_cheap(
    database_url: str, usual: Settings, topic: str, publisher: Callable[[], Publisher] | None = None
) -> list[Added]:
    """Deliver so many rounds of messages, none of which can be removed, and hold the last ones' cost to the first's."""
    pages = []
    async with connect(database_url) as connection, connect(database_url) as reader:
        ledger = Ledger(connection)
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            await reader.fetchval("SELECT count(*) FROM outbox_messages")
            for _ in range(ROUNDS):
                await ledger.fill(topic, messages=MESSAGES, keys=1000)
                async with running(usual, publisher):
                    await empty(database_url)
                pages.append(await _pages(usual))
            dead = await connection.fetchval("SELECT pg_relation_size('outbox_messages') / 8192")
    assert dead > ROUNDS * MESSAGES / 100, "dead rows were removed, so this shows nothing"
    assert max(pages[3:]) < 1.5 * max(pages[:3]) + 200, pages
    return ledger.messages


async def _pages(usual: Settings) -> int:
    """What a look, a claim of all lanes and their fetch touch, with a few messages in each lane."""
    slot: asyncpg.Connection = await store.connect(usual)
    transaction = slot.transaction()
    await transaction.start()
    await Ledger(slot).fill("t", messages=200, keys=200)
    look = await explain(slot, work.LOOK)
    lanes = await store.claim(slot, range(32), limit=32)
    arguments = (
        array([lane.lane for lane in lanes]),
        array([lane.floor for lane in lanes]),
        *("64", "1000000"),
        array([lane.has_parked for lane in lanes]),
    )
    fetch = await explain(slot, fetching.FETCH, *arguments)
    await transaction.rollback()
    await slot.close(timeout=10)
    return look.buffers + fetch.buffers
