"""An application and its message are stored together or not at all, wherever the request is interrupted.

Each round ends a request after a random number of steps of the event loop, drawn from a fixed seed.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy import QueuePool, make_url

from tests.api import Api, api_on
from tests.services.fixtures import Proxies

_DEADLINE = 120.0  # seconds
_AT_ONCE = 4
_ENOUGH = 50  # interrupted, and answered, for the test to mean something
_OTHERS_IN_TRANSACTION = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()"
)


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url, api_pool_size=_AT_ONCE) as api:
        yield api


class _Interruptions:
    """When to interrupt, and what became of the requests.

    How long a request takes depends on the machine and on whether it has to connect, so the reach adapts: about half
    of the requests get through, and the others are interrupted anywhere.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.answered: set[int] = set()
        self.interrupted = 0
        self._reach = 100.0

    async def wait(self) -> None:
        """Let a random number of steps of the event loop pass."""
        for _ in range(int(self.random.uniform(0, self._reach))):
            await asyncio.sleep(0)

    def note(self, response: httpx2.Response | None) -> None:
        """How a request ended; None when it was cancelled."""
        if response is not None and response.status_code == 201:
            self.answered.add(response.json()["id"])
            self._reach = max(5.0, self._reach / 1.04)
        else:
            assert response is None or response.status_code == 503
            self.interrupted += 1
            self._reach *= 1.04

    async def cancel(self, request: asyncio.Task[httpx2.Response]) -> None:
        """Cancel it, if it is not answered by now."""
        request.cancel()
        try:
            self.note(await request)
        except asyncio.CancelledError:
            self.note(None)


async def _all_or_nothing(api: Api, interruptions: _Interruptions) -> None:
    """Check the pool and the database when all is over."""
    pool = api.engine.pool
    assert isinstance(pool, QueuePool)
    async with asyncio.timeout(_DEADLINE):
        # What was interrupted cleans up in the background; connections that were cut are found out when they are used.
        while pool.checkedout() or (await api.apply()).status_code == 503:  # noqa: ASYNC110 - a fact to wait for
            await asyncio.sleep(0)
        while (await api.query(_OTHERS_IN_TRANSACTION))[0][0]:
            continue
    responses = await asyncio.gather(*(api.apply() for _ in range(2 * _AT_ONCE)))
    assert {response.status_code for response in responses} == {201}

    rows = {row.id: (row.user_name, row.description) for row in await api.query("SELECT * FROM applications")}
    messages = await api.query("SELECT message_id, key, payload FROM outbox_messages")
    events = {int(message.key): json.loads(message.payload) for message in messages}
    assert len(events) == len(messages)
    assert {number: (event["user_name"], event["description"]) for number, event in events.items()} == rows
    assert interruptions.answered <= rows.keys()  # a 201 means committed
    assert min(len(interruptions.answered), interruptions.interrupted) > _ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_anywhere(api: Api, seed: int) -> None:
    async def client(number: int) -> _Interruptions:
        interruptions = _Interruptions(seed * _AT_ONCE + number)
        for _ in range(250):
            request = asyncio.create_task(api.apply())
            await interruptions.wait()
            await interruptions.cancel(request)
        return interruptions

    async with asyncio.timeout(_DEADLINE):
        clients = await asyncio.gather(*(client(number) for number in range(_AT_ONCE)))
    for interruptions in clients:
        await _all_or_nothing(api, interruptions)


@pytest.mark.slow
async def test_cancelled_twice(api: Api) -> None:
    # The second one hits what cleans up after the first.
    interruptions = _Interruptions(7)
    async with asyncio.timeout(_DEADLINE):
        for _ in range(400):
            request = asyncio.create_task(api.apply())
            await interruptions.wait()
            request.cancel()
            for _ in range(interruptions.random.randrange(10)):
                await asyncio.sleep(0)
            await interruptions.cancel(request)
    await _all_or_nothing(api, interruptions)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_cut_off_anywhere(database_url: str, tcp_proxy: Proxies, seed: int) -> None:
    # What PostgreSQL sees when the process or its machine dies: the connection is reset.
    address = make_url(database_url)
    proxy = await tcp_proxy(address.host or "localhost", address.port or 5432)
    interruptions = _Interruptions(seed)
    async with (
        api_on(proxy.through(database_url), api_pool_size=_AT_ONCE) as api,
        asyncio.timeout(_DEADLINE),
    ):
        for _ in range(150):
            requests = [asyncio.create_task(api.apply()) for _ in range(_AT_ONCE)]
            await interruptions.wait()
            await proxy.cut()
            for request in requests:
                interruptions.note(await request)
            await proxy.restore()
        await _all_or_nothing(api, interruptions)


async def test_a_failure_after_the_message_takes_the_application_with_it(api: Api) -> None:
    # The last statement of the transaction is its COMMIT; a constraint that is checked there fails it.
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON outbox_messages DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    assert (await api.apply()).status_code == 500
    assert await api.stored() == (0, 0)
    assert api.commits == []


@pytest.mark.parametrize("state", ["40P01", "40001"])
async def test_a_deadlock_is_repeated_as_a_whole(api: Api, state: str) -> None:
    # A sequence keeps its value when the transaction is rolled back.
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SEQUENCE tries")
        await connection.exec_driver_sql(
            "CREATE FUNCTION fail_twice() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'no' USING ERRCODE = '" + state + "'; END IF; "
            "RETURN NULL; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER fail_twice AFTER INSERT ON outbox_messages FOR EACH ROW EXECUTE FUNCTION fail_twice()"
        )
    assert (await api.apply()).status_code == 201
    assert await api.stored() == (1, 1)
    assert len(api.commits) == 1
