"""Rules of the floor that look right and strand messages."""

from dataclasses import replace
from datetime import timedelta

import pytest

from relay import delivery, statements
from relay.floor import Lane, Round, advance
from tests.engine import Broker, connect, engine
from tests.histories import slow_fetches, stranded, write_histories
from tests.services.postgres_server import PostgresServer

# The scan that would find them is for these tests to do.
_SETTINGS = {"relay_floor_step": 1, "relay_floor_interval": 0.001, "relay_scan_interval": 3600}


async def test_the_end_of_the_snapshot_is_not_its_oldest_transaction(
    postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "FETCH", statements.FETCH.replace("pg_snapshot_xmin", "pg_snapshot_xmax"))
    await _strands(postgres, database_url, monkeypatch)


async def test_the_xid_of_the_claim_that_fetched_an_id_came_too_early(
    postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen_at_once(lane: Lane, done: Round) -> Lane:
        return advance(replace(lane, seen=max(lane.seen, done.last or 0)), done)

    monkeypatch.setattr(delivery, "advance", seen_at_once)
    await _strands(postgres, database_url, monkeypatch)


async def _strands(postgres: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_fetches(monkeypatch)
    async with connect(database_url) as watcher:

        async def anything_stranded() -> bool:
            return bool(await stranded(watcher))

        async with engine(database_url, Broker(), **_SETTINGS):
            await write_histories(postgres, database_url, timedelta(seconds=30), stop=anything_stranded)
        assert await stranded(watcher)
