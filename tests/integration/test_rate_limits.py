"""How many requests a visitor may send; with a real Redis, alive, killed and frozen."""

import re
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from prometheus_client import REGISTRY

from app.api.limits import Limits
from app.errors import ConfigurationError
from app.settings import load
from tests.api import NOWHERE, Api, api_on
from tests.services.redis import Redis
from tests.waiting import until

_BODY = b'{"user_name":"a","description":"b"}'


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    async with Redis() as server:
        yield server


async def _post(api: Api, address: str = "1.2.3.4") -> httpx2.Response:
    return await api.send(_BODY, **{"x-forwarded-for": address})


async def test_twenty_posts_in_a_minute_by_default(database_url: str) -> None:
    async with api_on(database_url, rate_limit_writes=load(_env_file=None).rate_limit_writes) as api:
        for used in range(1, 21):
            response = await api.send(_BODY)
            assert response.status_code == 201
            assert response.headers["ratelimit-policy"] == '"writes";q=20;w=60'
            match = re.fullmatch(r'"writes";r=(\d+);t=(\d+)', response.headers["ratelimit"])
            assert match is not None
            assert int(match[1]) == 20 - used
            assert 0 < int(match[2]) <= 60
        refused = await api.send(_BODY)
        assert refused.status_code == 429
        assert refused.json()["type"] == "/problems/rate-limited"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"writes";r=0;t=')
        assert await api.stored() == (20, 20)
        # Reads have a budget of their own, and health has none.
        assert (await api.client.get("/applications")).status_code == 200
        assert "ratelimit" not in (await api.client.get("/livez")).headers


async def test_what_is_wrong_counts_too_and_says_so() -> None:
    async with api_on(NOWHERE, rate_limit_writes=2) as api:
        for body, status in ((b"{", 400), (b"{}", 422), (_BODY, 429)):
            response = await api.send(body)
            assert response.status_code == status
            assert "ratelimit" in response.headers


async def test_visitors_are_counted_apart() -> None:
    async with api_on(NOWHERE, rate_limit_writes=1, trusted_proxies="127.0.0.1") as api:
        statuses = [(await _post(api, address)).status_code for address in ("1.1.1.1", "2.2.2.2", "1.1.1.1")]
        assert statuses == [503, 503, 429]
        # One network of IPv6 is one visitor; what the visitor says of itself is not looked at.
        statuses = [(await _post(api, address)).status_code for address in ("2001:db8::1", "3.3.3.3, 2001:db8::2")]
        assert statuses == [503, 429]


async def test_who_has_no_proxy_cannot_choose_an_address() -> None:
    async with api_on(NOWHERE, rate_limit_writes=1) as api:
        assert [(await _post(api, f"1.1.1.{number}")).status_code for number in (1, 2)] == [503, 429]


async def test_guessing_keys_is_limited() -> None:
    async with api_on(NOWHERE, rate_limit_writes=3, api_keys="one:read:" + "0" * 64) as api:
        statuses = [
            (await api.client.get("/applications", headers={"x-api-key": f"guess {number}"})).status_code
            for number in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]


async def test_a_new_window_begins() -> None:
    async with api_on(NOWHERE, rate_limit_writes=1, rate_limit_window=1) as api:
        assert [(await _post(api)).status_code for _ in range(2)] == [503, 429]

        async def again() -> bool:
            return (await _post(api)).status_code == 503

        await until(again)


async def test_processes_share_a_redis(redis: Redis) -> None:
    async with (
        api_on(NOWHERE, rate_limit_writes=3, rate_limit_store=redis.uri) as one,
        api_on(NOWHERE, rate_limit_writes=3, rate_limit_store=redis.uri) as two,
    ):
        statuses = [(await _post(api)).status_code for api in (one, two, one, two)]
        assert statuses == [503, 503, 503, 429]


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
async def test_requests_go_on_without_redis(database_url: str, redis: Redis, frozen: bool) -> None:
    store = redis.uri
    async with api_on(database_url, rate_limit_writes=2, rate_limit_store=store, rate_limit_store_timeout=3) as api:
        assert [(await _post(api)).status_code for _ in range(3)] == [201, 201, 429]
        failures = REGISTRY.get_sample_value("http_rate_limit_failures_total") or 0
        if frozen:
            redis.freeze()
        else:
            await redis.kill()
        started = time.monotonic()
        assert {(await _post(api)).status_code for _ in range(20)} == {201}
        assert time.monotonic() - started < 30  # Redis is not waited for each time
        assert (REGISTRY.get_sample_value("http_rate_limit_failures_total") or 0) > failures
        if frozen:
            redis.thaw()
        else:
            await redis.start()

        async def limited_again() -> bool:
            return (await _post(api)).status_code == 429

        await until(limited_again)


@pytest.mark.parametrize("uri", ["redis://localhost", "async+memcached://x", "memory", "async+redis://:secret@h:port"])
def test_a_store_that_cannot_be(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="RATE_LIMIT_STORE") as raised:
        Limits(load(_env_file=None, rate_limit_store=uri))
    assert "secret" not in str(raised.value)
