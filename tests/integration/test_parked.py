"""Messages held behind a topic that takes nothing now, closed by its breaker, and how it is tried again."""

from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import Ledger
from tests.operating import pause, resume, retry
from tests.waiting import until

_CLOSED = "SELECT closed_at IS NOT NULL FROM outbox_topics WHERE topic = 't'"
_PARKED = "SELECT count(*) FROM outbox_parked WHERE behind IS NULL"
# Its next try is now.
_HALF_OPEN = "UPDATE outbox_topics SET closed_until = clock_timestamp() WHERE topic = 't'"
_CLOSE = """
    INSERT INTO outbox_topics (topic, closed_at, closed_until, close_reason)
    VALUES ('t', clock_timestamp(), clock_timestamp() + interval '1 hour', 'TEST')
    ON CONFLICT (topic) DO UPDATE SET closed_at = excluded.closed_at, closed_until = excluded.closed_until
"""
_NEVER = {"relay_probe_min": 600, "relay_probe_max": 600}


async def test_a_topic_that_takes_nothing_is_closed_and_the_others_flow(database_url: str) -> None:
    broker = Broker()
    broker.unavailable = {"t"}
    async with connect(database_url) as connection, engine(database_url, broker, **_NEVER):
        ledger = Ledger(connection)
        await ledger.fill("t", messages=30)
        await until(lambda: connection.fetchval(_CLOSED))
        held = await ledger.fill("t", messages=30)
        await ledger.fill("u", messages=30)

        async def all_parked() -> bool:
            return await connection.fetchval(_PARKED) == 60 and len(broker.ids("u")) == 30

        await until(all_parked)
        assert not set(broker.attempts) & {message.id for message in held}
        broker.unavailable.clear()
        await connection.execute(_HALF_OPEN)
        await empty(database_url)
        assert not await connection.fetchval(_CLOSED)
        assert not await connection.fetchval("SELECT bool_or(has_parked) FROM outbox_lanes")
    await assess(database_url, broker, ledger.messages)


async def test_the_probe_is_one_message_the_smallest_of_all_lanes(database_url: str) -> None:
    broker = Broker()
    broker.unavailable = {"t"}
    async with connect(database_url) as connection, engine(database_url, broker, **_NEVER):
        ledger = Ledger(connection)
        await ledger.fill("t", messages=300, keys=100)

        async def all_parked() -> bool:
            return bool(await connection.fetchval(_PARKED) == 300)

        await until(all_parked)
        for failures in (1, 2, 3):
            before = len(broker.attempts)
            closures = await connection.fetchval("SELECT closures FROM outbox_topics")
            await connection.execute(_HALF_OPEN)
            query = "SELECT closures > $1 AND closed_until > clock_timestamp() FROM outbox_topics"
            await until(lambda: connection.fetchval(query, closures))  # noqa: B023 - called in this very iteration
            assert broker.attempts[before:] == [ledger.messages[0].id], f"probe {failures}"
        broker.unavailable.clear()
        await connection.execute(_HALF_OPEN)
        await empty(database_url)
        assert broker.order[0] == ledger.messages[0].id
    await assess(database_url, broker, ledger.messages)


async def test_each_failed_probe_doubles_the_pause(database_url: str) -> None:
    broker = Broker()
    broker.unavailable = {"t"}
    settings = {"relay_probe_min": 0.02, "relay_probe_max": 0.3}
    async with connect(database_url) as connection, engine(database_url, broker, **settings):
        ledger = Ledger(connection)
        await ledger.add("t", [(b"key", b"")])
        query = "SELECT closures, closed_until - closed_at AS since, closed_until FROM outbox_topics"
        until_at = {}

        async def closed_often() -> bool:
            row = await connection.fetchrow(query)
            if row is not None:
                until_at[row["closures"]] = row["closed_until"]
            return len(until_at) > 0 and max(until_at) >= 7

        await until(closed_often)
        # The next try comes after the pause, so the moments lie at least that far apart.
        steps = [
            (until_at[number + 1] - until_at[number]).total_seconds() for number in until_at if number + 1 in until_at
        ]
        assert steps[-1] >= 0.3
        broker.unavailable.clear()
        await empty(database_url)
        assert await connection.fetchval("SELECT closures FROM outbox_topics") == 0
    await assess(database_url, broker, ledger.messages)


async def test_a_retried_dead_letter_is_not_overtaken_by_the_probe(database_url: str) -> None:
    broker = Broker()
    broker.poison = {b"bad"}
    async with connect(database_url) as connection, engine(database_url, broker, **_NEVER):
        ledger = Ledger(connection)
        bad, follower = await ledger.add("t", [(b"key", b"bad"), (b"key", b"2")])
        behind = "SELECT count(*) FROM outbox_parked WHERE behind = $1"
        await until(lambda: connection.fetchval(behind, bad.id))
        await connection.execute(_CLOSE)
        broker.poison.clear()
        await retry(database_url, bad)
        (late,) = await ledger.add("t", [(b"key", b"3")])
        parked = "SELECT EXISTS (SELECT FROM outbox_parked WHERE id = $1)"
        await until(lambda: connection.fetchval(parked, late.id))
        assert broker.ids("t") == []
        await connection.execute(_HALF_OPEN)
        await empty(database_url)
        assert broker.ids("t") == [bad.id, follower.id, late.id]
    await assess(database_url, broker, ledger.messages)


async def test_nothing_of_a_paused_topic_goes_and_its_breaker_does_not_probe(database_url: str) -> None:
    broker = Broker()
    broker.unavailable = {"t"}
    async with connect(database_url) as connection, engine(database_url, broker):
        ledger = Ledger(connection)
        await ledger.add("t", [(b"key", b"1")])
        await until(lambda: connection.fetchval(_CLOSED))
        await pause(database_url, "t")
        broker.unavailable.clear()
        await connection.execute(_HALF_OPEN)
        before = len(broker.attempts)
        for number in range(10):
            await ledger.add("t", [(b"key", b"%d" % number)])
            await ledger.add("u", [(b"key", b"%d" % number)])
            await until(lambda: _arrived(broker, number + 1))  # noqa: B023 - called in this very iteration
        assert not {message.id for message in ledger.messages if message.topic == "t"} & set(broker.attempts[before:])
        await resume(database_url, "t")
        await empty(database_url)
    await assess(database_url, broker, ledger.messages)


async def _arrived(broker: Broker, number: int) -> bool:
    return len(broker.ids("u")) >= number
