"""Somebody holds a snapshot for hours: vacuum removes nothing, and delivering gets no slower."""

import time

import asyncpg

from relay import statements, store
from tests.engine import Broker, assess, connect, empty, engine, settings
from tests.explain import array, explain
from tests.ledger import Ledger

ROUNDS, MESSAGES = 7, 10_000


async def test_rounds_stay_as_cheap_as_the_first(database_url: str) -> None:
    broker = Broker()
    usual = {"relay_floor_interval": 1, "publish_deadline": 20, "relay_idle_timeout": 30}
    pages, seconds = [], []
    async with connect(database_url) as connection, connect(database_url) as reader:
        ledger = Ledger(connection)
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            await reader.fetchval("SELECT count(*) FROM outbox_messages")
            for _ in range(ROUNDS):
                await ledger.fill("t", messages=MESSAGES, keys=1000)
                started = time.monotonic()
                async with engine(database_url, broker, **usual):
                    await empty(database_url)
                seconds.append(time.monotonic() - started)
                pages.append(await _pages(database_url))
            dead = await connection.fetchval("SELECT pg_relation_size('outbox_messages') / 8192")
    assert dead > ROUNDS * MESSAGES / 100, "dead rows were removed, so this shows nothing"
    # Pages are counted, so they tell more than seconds on a busy machine.
    assert max(pages[3:]) < 1.5 * max(pages[:3]) + 200, pages
    assert sum(sorted(seconds[3:])[:3]) < 3 * sum(sorted(seconds[:3])), seconds
    await assess(database_url, broker, ledger.messages)


async def _pages(database_url: str) -> int:
    """What a look, a claim of all lanes and their fetch touch, with a few messages in each lane."""
    slot: asyncpg.Connection = await store.connect(settings(database_url))
    transaction = slot.transaction()
    await transaction.start()
    await Ledger(slot).fill("t", messages=200, keys=200)
    look = await explain(slot, statements.LOOK)
    lanes = await store.claim(slot, range(32), limit=32)
    arguments = (
        array([lane.lane for lane in lanes]),
        array([lane.floor for lane in lanes]),
        array([lane.has_parked for lane in lanes]),
    )
    fetch = await explain(slot, statements.FETCH, *arguments, "64", "1000000")
    await transaction.rollback()
    await slot.close(timeout=10)
    return look.buffers + fetch.buffers
