"""`Idempotency-Key`: one effect and one answer, however often and however much at once a request is repeated."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx2
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event

from app.api.idempotency import LOCK_NAMESPACE
from app.api.problems import MEDIA_TYPE
from tests.api import Api, api_on
from tests.waiting import until

_BODY = b'{"user_name": "Anna", "description": "d"}'


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


async def _post(api: Api, key: str, body: bytes = _BODY, path: str = "/applications") -> httpx2.Response:
    headers = {"content-type": "application/json", "idempotency-key": key}
    return await api.client.post(path, content=body, headers=headers)


def _kind(response: httpx2.Response) -> str:
    assert response.headers["content-type"] == MEDIA_TYPE
    return str(response.json()["type"]).removeprefix("/problems/")


async def test_a_repeat_gets_the_first_answer(api: Api) -> None:
    first = await _post(api, "key-1")
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    for path in ("/applications", "/applications/", "/api/v1/applications"):
        again = await _post(api, "key-1", path=path)
        assert again.status_code == 201
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"
        for name in ("location", "outbox-message-id", "content-type"):
            assert again.headers[name] == first.headers[name]
    assert await api.stored() == (1, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [('"key-1"', "key-1"), ('"a b"', '"a b"'), (r'"a\"b\\c"', r'a"b\c'), ("k" * 255, f'"{"k" * 255}"'), ("!~", "!~ ")],
)
async def test_quoted_and_bare_it_is_the_same_key(api: Api, one: str, other: str) -> None:
    first, second = await _post(api, one), await _post(api, other)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert await api.stored() == (1, 1)


async def test_other_keys_and_no_key_are_other_requests(api: Api) -> None:
    ids = {(await _post(api, key)).json()["id"] for key in ("a", "b", "A")}
    ids |= {(await api.send(_BODY)).json()["id"] for _ in range(2)}
    assert len(ids) == 5
    assert await api.stored() == (5, 5)


async def test_another_body_is_refused(api: Api) -> None:
    first = await _post(api, "key-1")
    for body in (_BODY.replace(b"Anna", b"Boris"), _BODY + b" "):
        refused = await _post(api, "key-1", body)
        assert (refused.status_code, _kind(refused)) == (422, "idempotency-key-reused")
        assert b"Anna" not in refused.content
        assert b"key-1" not in refused.content
    assert (await _post(api, "key-1")).content == first.content
    assert await api.stored() == (1, 1)


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["k" * 256],
        ["ключ".encode()],
        [b"caf\xe9"],
        ["a b"],
        ['"a'],
        ['a"', '"b'],
        ["a", "a"],
        ['"a";q=1'],
        ["a\tb"],
    ],
    ids=str,
)
async def test_keys_that_are_not_accepted(api: Api, values: list[str | bytes]) -> None:
    raw = [value if isinstance(value, bytes) else value.encode() for value in values]
    response = await api.client.post(
        "/applications",
        content=_BODY,
        headers=[(b"content-type", b"application/json"), *((b"idempotency-key", value) for value in raw)],
    )
    assert (response.status_code, _kind(response)) == (400, "idempotency-key-invalid")
    assert await api.stored() == (0, 0)


async def test_a_body_that_is_refused_leaves_the_key_unused(api: Api) -> None:
    assert (await _post(api, "key-1", b"{")).status_code == 400
    assert (await _post(api, "key-1", b"{}")).status_code == 422
    created = await _post(api, "key-1")
    assert created.status_code == 201
    assert "idempotency-replayed" not in created.headers


async def test_a_failure_of_ours_leaves_the_key_unused(api: Api) -> None:
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE outbox_messages RENAME TO gone")
    assert (await _post(api, "key-1")).status_code == 500
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO outbox_messages")
    assert await api.query("SELECT * FROM idempotency_keys") == []
    created = await _post(api, "key-1")
    assert created.status_code == 201
    assert "idempotency-replayed" not in created.headers


async def test_the_answer_is_kept_with_the_row_in_one_commit(api: Api) -> None:
    await _post(api, "warm-up")
    statements: list[str] = []
    ends: list[str] = []
    sync = api.engine.sync_engine
    event.listen(sync, "before_cursor_execute", lambda *args: statements.append(" ".join(args[2].split())[:29]))
    event.listen(sync, "commit", lambda _: ends.append("commit"))
    event.listen(sync, "rollback", lambda _: ends.append("rollback"))
    await _post(api, "key-1")
    assert [text.partition("_keys")[0] for text in statements] == [
        "SELECT pg_try_advisory_xact_l",
        "SELECT idempotency",
        "INSERT INTO applications (use",
        "WITH input AS MATERIALIZED ( ",
        "INSERT INTO idempotency",
    ]
    assert ends == ["commit"]


async def test_the_key_is_new_after_its_time(api: Api) -> None:
    first = await _post(api, "key-1")
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE idempotency_keys SET expires_at = clock_timestamp()")
    second = await _post(api, "key-1", _BODY.replace(b"Anna", b"Boris"))
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]
    assert (await _post(api, "key-1")).status_code == 422  # the new one counts now
    assert await api.stored() == (2, 2)


async def test_how_long_is_a_setting(database_url: str) -> None:
    async with api_on(database_url, idempotency_ttl=timedelta(hours=1)) as api:
        await _post(api, "key-1")
        ((left,),) = await api.query("SELECT expires_at - clock_timestamp() FROM idempotency_keys")
        assert timedelta(minutes=59) < left <= timedelta(hours=1)


async def test_required_by_setting(database_url: str) -> None:
    async with api_on(database_url, idempotency_key_required=True) as api:
        response = await api.send(_BODY)
        assert (response.status_code, _kind(response)) == (400, "idempotency-key-required")
        assert (await _post(api, "key-1")).status_code == 201
        assert (await api.client.get("/applications")).status_code == 200
        assert await api.stored() == (1, 1)


async def test_a_repeat_while_the_first_runs_is_told_at_once(database_url: str) -> None:
    async with api_on(database_url, api_database_deadline=20, lock_timeout=20) as api:
        async with api.engine.begin() as blocker:
            await blocker.exec_driver_sql("LOCK TABLE applications IN ACCESS EXCLUSIVE MODE")
            first = asyncio.create_task(_post(api, "key-1"))

            async def running() -> bool:
                held = await blocker.exec_driver_sql(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1", (LOCK_NAMESPACE,)
                )
                return bool(held.scalar())

            await until(running)
            second = await _post(api, "key-1")
            assert not first.done()
            assert (second.status_code, _kind(second)) == (409, "in-progress")
            assert int(second.headers["retry-after"]) >= 1
        assert (await first).status_code == 201
        assert (await _post(api, "key-1")).content == (await first).content


async def test_two_hundred_at_once(database_url: str) -> None:
    async with api_on(database_url, api_pool_size=20, api_database_deadline=30) as api:
        replays = _metric("http_idempotency_replays_total")
        responses = await asyncio.gather(*(_post(api, "key-1") for _ in range(200)))
        created = [each for each in responses if each.status_code == 201]
        done = [each for each in created if "idempotency-replayed" not in each.headers]
        assert len(done) == 1
        assert {each.content for each in created} == {done[0].content}
        assert {each.status_code for each in responses} <= {201, 409}
        assert _metric("http_idempotency_replays_total") - replays == len(created) - 1
        assert await api.stored() == (1, 1)
        ((payload,),) = await api.query("SELECT payload FROM outbox_messages")
        assert json.loads(payload) == done[0].json()


async def test_many_keys_at_once(database_url: str) -> None:
    async with api_on(database_url, api_pool_size=20, api_database_deadline=30) as api:
        responses = await asyncio.gather(*(_post(api, f"key-{number % 40}") for number in range(200)))
        ids: dict[int, int] = {}
        for number, response in enumerate(responses):
            assert response.status_code in (201, 409)
            if response.status_code == 201:
                assert ids.setdefault(number % 40, response.json()["id"]) == response.json()["id"]
        assert len(set(ids.values())) == 40
        assert await api.stored() == (40, 40)


def _metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0
