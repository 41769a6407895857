"""A topic that an operator paused while very much is owed to it."""

import statistics
import time
from datetime import timedelta

import asyncpg

from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import Ledger
from tests.operating import pause, resume
from tests.waiting import until

MESSAGES = 100_000
_PARKED = "SELECT count(*) = $1 FROM outbox_parked"
_LONG = timedelta(seconds=90)


async def test_others_keep_their_latency_and_what_waited_arrives_first(database_url: str) -> None:
    broker = Broker()
    await pause(database_url, "t")
    async with connect(database_url) as connection, engine(database_url, broker):
        ledger = Ledger(connection)
        before = await _median_latency(broker, ledger)
        await ledger.fill("t", messages=MESSAGES, keys=1000)
        await _latency(broker, ledger)  # while it is parked, others wait for a round or two, not for all of it
        await until(lambda: connection.fetchval(_PARKED, MESSAGES), _LONG)
        while_paused = await _median_latency(broker, ledger)
        assert not broker.ids("t")
        assert while_paused < 3 * before + 0.03
        await resume(database_url, "t")
        await ledger.fill("t", messages=1000, keys=1000)
        await empty(database_url, _LONG)
        assert not await connection.fetchval("SELECT bool_or(has_parked) FROM outbox_lanes")
    await assess(database_url, broker, ledger.messages)


async def test_relays_killed_while_they_return_it(database_url: str) -> None:
    """Each time the relays' sessions end in the middle of a round, and go on."""
    broker = Broker()
    await pause(database_url, "t")
    async with connect(database_url) as connection:
        ledger = Ledger(connection)
        async with engine(database_url, broker):
            await ledger.fill("t", messages=20_000, keys=50)
            await until(lambda: connection.fetchval(_PARKED, 20_000), _LONG)
        await resume(database_url, "t")
        async with engine(database_url, broker, relay_batch_messages=500, relay_light_messages=15):
            killed = 0
            for share in range(1, 5):
                await until(lambda: _came(broker, share * 4000), _LONG)  # noqa: B023 - called in this very iteration
                killed += await _kill_relays(connection)
                await ledger.fill("t", messages=100, keys=50)
            await empty(database_url, _LONG)
        assert killed >= 4
    # A round has one lane with up to 500 parked and 500 other messages, or up to 15 and 15 of each of 32.
    await assess(database_url, broker, ledger.messages, repeats=killed * 1000)


async def _came(broker: Broker, number: int) -> bool:
    return len(broker.records) >= number


async def _kill_relays(connection: asyncpg.Connection) -> int:
    return int(
        await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'outbox-relay'"
        )
    )


async def _median_latency(broker: Broker, ledger: Ledger) -> float:
    return statistics.median([await _latency(broker, ledger) for _ in range(30)])


async def _latency(broker: Broker, ledger: Ledger) -> float:
    """Seconds from the commit of a message of another topic to its arrival."""
    started = time.monotonic()
    (message,) = await ledger.add("u", [(b"key", b"")])

    async def arrived() -> bool:
        return message.message_id in broker.arrived_at

    await until(arrived)
    return broker.arrived_at[message.message_id] - started
