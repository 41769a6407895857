"""A message that is committed long after others with larger ids were delivered."""

from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import Ledger
from tests.waiting import until


async def test_a_late_committer_is_delivered_at_once(database_url: str) -> None:
    broker = Broker()
    async with (
        connect(database_url) as first,
        connect(database_url) as second,
        engine(database_url, broker, relay_scan_interval=3600),  # a scan would find what a wrong floor strands
    ):
        late, other = Ledger(first), Ledger(second)
        transaction = first.transaction()
        await transaction.start()
        (message,) = await late.add("t", [(None, b"late")])
        for number in range(20):  # each in a round of its own, so that the floors could rise
            await other.add("t", [(b"other", b"")])
            await until(lambda: _arrived(broker, number + 1))  # noqa: B023 - called in this very iteration
        assert await second.fetchval("SELECT max(floor) FROM outbox_lanes") < message.id
        await transaction.commit()
        await until(lambda: _arrived(broker, 21))
        await empty(database_url)
    assert broker.order[-1] == message.id
    await assess(database_url, broker, late.messages + other.messages)


async def test_floors_rise_again_after_the_late_committer(database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as late, connect(database_url) as connection, engine(database_url, broker):
        ledger = Ledger(connection)
        transaction = late.transaction()
        await transaction.start()
        await late.fetchval("SELECT pg_current_xact_id()")

        async def floor() -> int:
            await ledger.add("t", [(b"key", b"")])
            await empty(database_url)
            return int(await connection.fetchval("SELECT max(floor) FROM outbox_lanes"))

        assert [await floor() for _ in range(10)] == [0] * 10
        await transaction.rollback()
        assert await until(floor) >= ledger.messages[0].id
    await assess(database_url, broker, ledger.messages)


async def _arrived(broker: Broker, number: int) -> bool:
    return len(broker.records) >= number
