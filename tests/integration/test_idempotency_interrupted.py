"""Whatever happens to a request and its connection: repeating it with its key ends with one effect and one id."""

import asyncio
import random
from collections import defaultdict
from functools import partial

import pytest
from sqlalchemy import make_url

from tests.api import Api, api_on
from tests.services.commit_cut import CommitCut, When
from tests.services.fixtures import PrivatePostgres
from tests.waiting import until

_DEADLINE = 120.0  # seconds
_BODY = b'{"user_name": "Anna", "description": "d"}'


async def _post(api: Api, key: str) -> tuple[int, int | None]:
    response = await api.send(_BODY, **{"idempotency-key": key})
    assert response.status_code in (201, 409, 503)
    return response.status_code, response.json().get("id")


async def _repeat(api: Api, key: str) -> int:
    """Repeat until there is an answer, as a client would; its id."""
    async with asyncio.timeout(_DEADLINE):
        while True:
            status, number = await _post(api, key)
            if status == 201:
                assert number is not None
                return number


async def _one_each(api: Api, ids: dict[str, set[int]]) -> None:
    """Each key has one id, one row and one message."""
    for key in list(ids):
        ids[key].add(await _repeat(api, key))
    assert {key: len(each) for key, each in ids.items()} == dict.fromkeys(ids, 1)
    stored = {row.id for row in await api.query("SELECT id FROM applications")}
    messages = sorted(int(row.key) for row in await api.query("SELECT key FROM outbox_messages"))
    assert stored == {number for each in ids.values() for number in each}
    assert messages == sorted(stored)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_cancelled_anywhere(database_url: str, seed: int) -> None:
    dice, ids, cancelled = random.Random(seed), defaultdict[str, set[int]](set), 0
    async with api_on(database_url, api_pool_size=4) as api:
        for number in range(200):
            key = f"key-{number}"
            request = asyncio.create_task(_post(api, key))
            for _ in range(dice.randrange(150)):
                await asyncio.sleep(0)
            request.cancel()
            try:
                status, answered = await request
            except asyncio.CancelledError:
                cancelled += 1
            else:
                if status == 201:
                    assert answered is not None
                    ids[key].add(answered)
            ids[key].add(await _repeat(api, key))
        await _one_each(api, ids)
    assert cancelled > 50


@pytest.mark.parametrize("when", ["before", "after"])
async def test_cut_at_the_commit(database_url: str, when: When) -> None:
    address = make_url(database_url)
    async with (
        CommitCut(address.host or "localhost", address.port or 5432) as network,
        api_on(network.through(database_url), api_pool_size=2) as api,
    ):
        assert (await _post(api, "warm-up"))[0] == 201
        before = await api.stored()
        network.arm(when)
        assert (await _post(api, "key-1"))[0] == 503
        assert network.cuts == 1
        # What the caller cannot know: cut after it, the work is done.
        expected = 0 if when == "before" else 1
        rows, messages = await api.stored()
        assert (rows - before[0], messages - before[1]) == (expected, expected)
        response = await api.send(_BODY, **{"idempotency-key": "key-1"})
        assert response.status_code == 201
        assert ("idempotency-replayed" in response.headers) == (when == "after")
        assert await api.stored() == (before[0] + 1, before[1] + 1)


@pytest.mark.slow
async def test_cut_at_many_commits(database_url: str) -> None:
    dice, ids = random.Random(1), defaultdict[str, set[int]](set)
    address = make_url(database_url)
    async with (
        CommitCut(address.host or "localhost", address.port or 5432) as network,
        api_on(network.through(database_url), api_pool_size=4) as api,
    ):

        async def client(name: int) -> None:
            for number in range(40):
                key = f"key-{name}-{number}"
                if dice.random() < 0.5:
                    network.arm(dice.choice(("before", "after")))
                for _ in range(dice.randrange(1, 3)):
                    ids[key].add(await _repeat(api, key))

        async with asyncio.timeout(_DEADLINE):
            await asyncio.gather(*map(client, range(4)))
        await _one_each(api, ids)
    assert network.cuts > 30


@pytest.mark.slow
async def test_a_server_that_is_killed_again_and_again(private_postgres: PrivatePostgres) -> None:
    server = await private_postgres({"fsync": "on"})
    url = await server.create_database(migrated=True)
    ids, over = defaultdict[str, set[int]](set), asyncio.Event()
    async with api_on(url, api_pool_size=4) as api:

        async def client(name: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                key = f"key-{name}-{number}"
                ids[key].add(await _repeat(api, key))

        async def worked(enough: int) -> bool:
            return len(ids) >= enough

        async with asyncio.timeout(_DEADLINE):
            clients = [asyncio.create_task(client(name)) for name in range(4)]
            for _ in range(4):
                await until(partial(worked, len(ids) + 50))  # some work since the last time
                await server.kill()
                await server.start()
            over.set()
            await asyncio.gather(*clients)
        await _one_each(api, ids)
