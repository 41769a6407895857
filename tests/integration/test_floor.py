"""The floors rise, and no message is ever left below one, whatever transactions do."""

from datetime import timedelta

import pytest

from app import metrics
from tests.engine import Broker, assess, connect, empty, engine
from tests.histories import slow_fetches, stranded, write_histories
from tests.services.postgres_server import PostgresServer
from tests.waiting import until

_DURATION = timedelta(minutes=1)
_SLOTS = """
    SELECT count(*) = 4 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay'
"""


@pytest.mark.slow
async def test_nothing_is_stranded(
    postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_fetches(monkeypatch)
    broker = Broker()
    often = {"relay_floor_step": 1, "relay_floor_interval": 0.001}
    found = metrics.below_floor._value.get()
    async with connect(database_url) as watcher:

        async def anything_stranded() -> bool:
            return bool(await stranded(watcher))

        async with engine(database_url, broker, **often):
            await until(lambda: watcher.fetchval(_SLOTS))
            async with engine(database_url, broker, **often):
                messages = await write_histories(postgres, database_url, _DURATION, stop=anything_stranded)
                assert not await stranded(watcher)
                await empty(database_url)
        used = {row[0] for row in await watcher.fetch("SELECT floor FROM outbox_lanes WHERE floor > 0")}
        assert len(used) >= 2
        assert min(used) > max(message.id for message in messages) / 2, "the floors did not rise"
    assert metrics.below_floor._value.get() == found
    await assess(database_url, broker, messages)
