"""API keys, Host, concurrency and back-pressure."""

import asyncio
from contextlib import AsyncExitStack

import httpx2
import pytest
from pydantic import SecretStr

from app.api import callers
from app.api.problems import MEDIA_TYPE
from app.errors import ConfigurationError
from tests.api import NOWHERE, Api, api_on
from tests.waiting import until


def _kind(response: httpx2.Response) -> str:
    assert response.headers["content-type"] == MEDIA_TYPE
    return str(response.json()["type"]).removeprefix("/problems/")


def _keys(**scopes: str) -> tuple[str, dict[str, str]]:
    """A value of API_KEYS, and the keys by name."""
    made = {name: callers.create() for name in scopes}
    setting = ",".join(f"{name}:{scopes[name]}:{digest}" for name, (_, digest) in made.items())
    return setting, {name: key for name, (key, _) in made.items()}


async def _post(api: Api, key: str | None = None, **headers: str) -> httpx2.Response:
    authorization = {} if key is None else {"authorization": f"Bearer {key}"}
    return await api.send(b'{"user_name":"a","description":"b"}', **authorization, **headers)


async def test_a_key_allows_what_its_scopes_say(database_url: str) -> None:
    setting, keys = _keys(writer="write", reader="read", both="read+write", boss="admin")
    async with api_on(database_url, api_keys=setting) as api:
        for name, posting, getting in (
            ("writer", 201, 403),
            ("reader", 403, 200),
            ("both", 201, 200),
            ("boss", 403, 403),
        ):
            headers = {"authorization": f"Bearer {keys[name]}"}
            assert (await _post(api, keys[name])).status_code == posting
            assert (await api.client.get("/applications", headers=headers)).status_code == getting
        forbidden = await _post(api, keys["reader"])
        assert _kind(forbidden) == "forbidden"
        accepted = await api.client.get("/applications", headers={"x-api-key": keys["both"]})
        assert accepted.status_code == 200


async def test_without_a_valid_key_nothing_is_told(database_url: str) -> None:
    setting, keys = _keys(one="read+write")
    good = keys["one"]
    async with api_on(database_url, api_keys=setting) as api:
        given: list[list[tuple[str, str]]] = [
            [],
            [("authorization", "Bearer ")],
            [("authorization", "Bearer " + good[:-1])],
            [("authorization", "Bearer " + good + "x")],
            [("authorization", "Bearer " + "x" * 9000)],
            [("authorization", "Basic " + good)],
            [("authorization", good)],
            [("authorization", "Bearer " + good), ("authorization", "Bearer " + good)],
            [("authorization", "Bearer " + good), ("x-api-key", good)],
            [("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")],
            [("x-api-key", setting.rsplit(":", 1)[1])],  # the hash is not the key
            [("authorization", "Bearer caf\xe9")],
        ]
        for headers in given:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            for path in ("/applications", "/api/v1/applications/", "/applications/1", "/messages/x"):
                refused = await api.client.get(path, headers=raw)
                assert (refused.status_code, _kind(refused)) == (401, "unauthenticated")
                assert refused.headers["www-authenticate"].startswith("Bearer")
            # Refused before its body is read, whatever it is.
            refused = await api.client.post("/applications", content=b"{", headers=raw)
            assert refused.status_code == 401
            assert good not in refused.text
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/problems/forbidden"):
            assert (await api.client.get(path)).status_code == 200
        assert await api.stored() == (0, 0)


async def test_two_callers_may_use_the_same_idempotency_key(database_url: str) -> None:
    setting, keys = _keys(one="write", two="write")
    async with api_on(database_url, api_keys=setting) as api:
        answers = [await _post(api, keys[name], **{"idempotency-key": "k"}) for name in ("one", "two", "one")]
        first, second, again = [each.json()["id"] for each in answers]
        assert first == again != second
        assert await api.stored() == (2, 2)


async def test_a_key_is_replaced_without_its_caller_changing(database_url: str) -> None:
    (old, old_digest), (new, new_digest) = callers.create(), callers.create()
    async with api_on(database_url, api_keys=f"one:write:{old_digest},one:write:{new_digest}") as api:
        first, second = [await _post(api, key, **{"idempotency-key": "k"}) for key in (old, new)]
        assert first.content == second.content


@pytest.mark.parametrize(
    "setting", ["x", "a:read", "a:read:00", "a:root:" + "0" * 64, "a b:read:" + "0" * 64, "a:read:" + "G" * 64]
)
def test_a_wrong_setting_is_named_and_not_repeated(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="API_KEYS: entry 2") as raised:
        callers.parse(SecretStr(f"ok:read:{'0' * 64},{setting}"))
    assert setting not in str(raised.value).replace("entry 2 is", "") or setting == "x"


@pytest.mark.parametrize("allowed", ["", "api.example.org, localhost,[::1]"])
async def test_hosts(allowed: str) -> None:
    async with api_on(NOWHERE, allowed_hosts=allowed) as api:

        async def status(*hosts: str) -> int:
            transport = httpx2.ASGITransport(api.app)
            request = httpx2.Request("GET", "http://placeholder/livez")
            request.headers = httpx2.Headers([(b"host", host.encode("latin-1")) for host in hosts])
            return (await transport.handle_async_request(request)).status_code

        for good in ("api.example.org", "API.example.org:8000", "localhost:65535", "[::1]:80"):
            assert await status(good) == 200
        assert await status("elsewhere.example.org") == (400 if allowed else 200)
        for bad in (
            "",
            "x@api.example.org",
            "a/b",
            "localhost:99999",
            "localhost:",
            "a b",
            "[::1",
            "a,b",
            "é",
            "a:b:1",
        ):
            assert await status(bad) == 400, bad
        assert await status() == 400
        assert await status("localhost", "localhost") == 400


async def test_more_than_can_be_worked_on_is_refused_at_once(database_url: str) -> None:
    async with api_on(database_url, api_concurrency=3, api_database_deadline=20, lock_timeout=20) as api:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(api.engine.begin())
            await connection.exec_driver_sql("LOCK TABLE applications IN ACCESS EXCLUSIVE MODE")
            working = [asyncio.create_task(api.apply()) for _ in range(3)]

            async def all_at_work() -> bool:
                return bool(api.app.state.guard.slots.taken == 3)

            await until(all_at_work)
            async with asyncio.timeout(5):
                refused = await api.apply()
                assert (refused.status_code, _kind(refused)) == (503, "overloaded")
                assert int(refused.headers["retry-after"]) >= 1
                assert (await api.client.get("/livez")).status_code == 200
        assert {(await each).status_code for each in working} == {201}
        assert (await api.apply()).status_code == 201
        assert api.app.state.guard.slots.taken == 0


async def test_back_pressure_by_number(database_url: str) -> None:
    async with api_on(database_url, backpressure_owed=3) as api:
        guard = api.app.state.guard

        async def post() -> int:
            guard.pressure._read_at = float("-inf")  # a second has passed
            return (await api.apply()).status_code

        assert [await post() for _ in range(6)] == [201, 201, 201, 201, 503, 503]
        refused = await api.apply()
        assert (_kind(refused), refused.headers["retry-after"]) == ("overloaded", "5")
        assert (await api.client.get("/applications")).status_code == 200
        async with api.engine.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM outbox_messages")
        assert await post() == 201


async def test_back_pressure_by_age(database_url: str) -> None:
    async with api_on(database_url, backpressure_age=60) as api:
        assert (await api.apply()).status_code == 201
        api.app.state.guard.pressure._read_at = float("-inf")
        assert (await api.apply()).status_code == 201
        # In every lane: the age is that of the lanes' first messages, and two have theirs already.
        async with api.engine.begin() as connection:
            await connection.exec_driver_sql(
                "INSERT INTO outbox_messages (lane, topic, payload, type, created_at) "
                "SELECT lane, 't', '', 't', now() - interval '61 s' FROM generate_series(0, 31) AS lane"
            )
        api.app.state.guard.pressure._read_at = float("-inf")
        assert (await api.apply()).status_code == 503


async def test_pressure_is_asked_for_once_a_second_at_most(database_url: str) -> None:
    async with api_on(database_url, backpressure_owed=1000) as api:
        await api.apply()
        reading = api.app.state.guard.pressure._reading
        await asyncio.gather(*(api.apply() for _ in range(10)))
        assert api.app.state.guard.pressure._reading is reading or reading.owed <= 1


async def test_an_unknown_pressure_refuses_nothing() -> None:
    async with api_on(NOWHERE, backpressure_owed=1) as api:
        refused = await api.apply()
        assert (refused.status_code, _kind(refused)) == (503, "unavailable")


async def test_documentation_can_be_switched_off() -> None:
    async with api_on(NOWHERE, docs_enabled=False) as api:
        for path in ("/docs", "/openapi.json", "/static/swagger-ui.css"):
            assert (await api.client.get(path)).status_code == 404
