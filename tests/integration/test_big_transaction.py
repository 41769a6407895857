"""One transaction with very many keys: it succeeds, and does no harm to the others."""

import asyncio

from app.outbox import OutboxMessage, add
from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import Ledger, added
from tests.waiting import until
from tests.writers import driver, sessions_on

MESSAGES = 100_000


async def test_a_transaction_with_100_000_keys_and_its_neighbours(database_url: str) -> None:
    broker = Broker()
    messages = [OutboxMessage(topic="t", key=b"%d" % n, payload=b"x", type="test") for n in range(MESSAGES)]
    follower = OutboxMessage(topic="t", key=b"7", payload=b"after it", type="test")
    async with (
        sessions_on(database_url, 2) as sessions,
        connect(database_url) as connection,
        engine(database_url, broker, publish_deadline=20, relay_idle_timeout=30),
    ):
        neighbour = Ledger(connection)
        async with sessions.begin() as session, sessions.begin() as same_key:
            await add(session, *messages)
            rows = await added(await driver(session), [message.message_id for message in messages])
            waiting = asyncio.create_task(add(same_key, follower))
            await neighbour.add("u", [(None, b"not held up")])

            async def arrived() -> bool:
                return len(broker.ids("u")) == 1

            await until(arrived)
            assert not broker.ids("t")
            assert not waiting.done()
            await session.commit()
            await waiting
            rows += await added(await driver(same_key), [follower.message_id])
        await empty(database_url)
    await assess(database_url, broker, rows + neighbour.messages)
