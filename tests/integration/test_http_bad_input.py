"""Bad input is refused by name, is not repeated in the answer, and leaves nothing behind."""

import json
from collections.abc import AsyncIterator

import pytest

from app.api.problems import MEDIA_TYPE
from tests.api import Api, api_on
from tests.services.postgres_server import PostgresServer

_CANARY = "canary-7f3a"


@pytest.fixture(scope="module")
async def shared_api(postgres: PostgresServer, template_database: str) -> AsyncIterator[Api]:
    url = await postgres.create_database(template_database)
    async with api_on(url) as api:
        yield api
    await postgres.drop_database(url)


@pytest.fixture
async def api(shared_api: Api) -> AsyncIterator[Api]:
    rows, messages = await shared_api.stored()
    yield shared_api
    # Whatever was sent: the next good request succeeds, and it is the only one that left something.
    assert (await shared_api.apply()).status_code == 201
    assert await shared_api.stored() == (rows + 1, messages + 1)


def _body(**fields: object) -> bytes:
    return json.dumps({"user_name": "Anna", "description": "d"} | fields).encode()


_FIELDS = {
    "missing user_name": (b'{"description": "canary-7f3a"}', "user_name"),
    "missing description": (b'{"user_name": "canary-7f3a"}', "description"),
    "empty": (_body(user_name=""), "user_name"),
    "blanks": (_body(user_name=" \t\n\u00a0\u3000"), "user_name"),
    "empty description": (_body(description=" "), "description"),
    "too long": (_body(user_name=_CANARY + "x" * 200), "user_name"),
    "too long by one": (_body(user_name="я" * 201), "user_name"),
    "too long description": (_body(description=_CANARY * 1000), "description"),
    "NUL": (_body(user_name=_CANARY + "\0"), "user_name"),
    "NUL in description": (_body(description="\0" + _CANARY), "description"),
    "high surrogate": (_body(user_name=_CANARY + "\ud800"), "user_name"),
    "low surrogate": (_body(description="\udc00" + _CANARY), "description"),
    "surrogates in the wrong order": (_body(user_name="\udc00\ud800"), "user_name"),
    "number": (_body(user_name=7312345), "user_name"),
    "too large a number": (b'{"user_name": 1e400, "description": "d"}', "user_name"),
    "boolean": (_body(description=True), "description"),
    "null": (_body(user_name=None), "user_name"),
    "list": (_body(user_name=[_CANARY]), "user_name"),
    "object": (_body(description={"$ne": _CANARY}), "description"),
    "unknown field": (_body(nickname=_CANARY), "nickname"),
    "our own fields": (_body(id=1), "id"),
    "__proto__": (_body(__proto__={"admin": True}), "__proto__"),
    "a name that is data": (_body(**{_CANARY + " <b>": 1}), "(a name not shown here)"),
    "a long name": (_body(**{_CANARY * 5000: 1}), "(a name not shown here)"),
    "NUL in a name": (_body(**{"a\0": 1}), "(a name not shown here)"),
}


@pytest.mark.parametrize(("body", "field"), _FIELDS.values(), ids=_FIELDS)
async def test_names_the_field(api: Api, body: bytes, field: str) -> None:
    response = await api.send(body)
    assert response.status_code == 422
    assert response.headers["content-type"] == MEDIA_TYPE
    problem = response.json()
    assert problem["type"] == "/problems/invalid-request"
    assert [(error["in"], error["field"]) for error in problem["errors"]] == [("body", field)]
    assert _CANARY not in response.text
    assert len(response.content) < 600


async def test_names_all_fields_at_once(api: Api) -> None:
    response = await api.send(b'{"user_name": 1, "extra": 2}')
    assert {error["field"] for error in response.json()["errors"]} == {"user_name", "description", "extra"}


@pytest.mark.parametrize("body", [b"null", b"[]", b'"canary-7f3a"', b"1", b"true"])
async def test_json_that_is_no_object(api: Api, body: bytes) -> None:
    response = await api.send(body)
    assert response.status_code == 422
    assert {error["in"] for error in response.json()["errors"]} == {"body"}
    assert _CANARY not in response.text


_NOT_JSON = {
    "empty": b"",
    "blank": b" ",
    "cut short": b'{"user_name": "canary-7f3a"',
    "trailing comma": b'{"user_name": "canary-7f3a",}',
    "two values": _body() + _body(),
    "comment": b"{/* canary-7f3a */}",
    "form": b"user_name=canary-7f3a&description=d",
    "NaN": b'{"user_name": NaN}',
    "infinity": b'{"user_name": -Infinity}',
    "5,000 digits": b'{"user_name": ' + b"9" * 5000 + b"}",
    "name twice": b'{"user_name": "canary-7f3a", "user_name": "b", "description": "d"}',
    "deep": b'{"user_name":' + b"[" * 30_000,
    "byte order mark": b"\xef\xbb\xbf" + _body(),
    "UTF-16": '{"user_name": "canary-7f3a"}'.encode("utf-16"),
    "UTF-32": '{"user_name": "canary-7f3a"}'.encode("utf-32"),
    "Latin-1": b'{"user_name": "canary-7f3a\xe9"}',
    "overlong": b'{"user_name": "\xc0\xaf"}',
    "encoded surrogate": b'{"user_name": "\xed\xa0\x80"}',
    "control character": b'{"user_name": "a\x01b", "description": "d"}',
    "raw NUL": b'{"user_name": "a\x00b", "description": "d"}',
}


@pytest.mark.parametrize("body", _NOT_JSON.values(), ids=_NOT_JSON)
async def test_not_json(api: Api, body: bytes) -> None:
    response = await api.send(body)
    assert response.status_code == 400
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.json()["type"] == "/problems/malformed-request"
    assert response.json()["detail"]
    assert _CANARY not in response.text


async def test_a_name_twice_is_named(api: Api) -> None:
    response = await api.send(_NOT_JSON["name twice"])
    assert [error["field"] for error in response.json()["errors"]] == ["user_name"]


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/xml"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json/x"},
        {"content-encoding": "gzip"},
        {"content-encoding": "br"},
        {"content-encoding": "identity, gzip"},
    ],
    ids=lambda headers: str(*headers.values()) or "none",
)
async def test_wrong_content_type(api: Api, headers: dict[str, str]) -> None:
    response = await api.send(_body(), **headers)
    assert response.status_code == 415
    assert response.json()["type"] == "/problems/unsupported-media-type"


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "APPLICATION/JSON", "application/json;charset=UTF-8", 'application/json; charset="utf-8"'],
)
async def test_right_content_types(database_url: str, content_type: str) -> None:
    async with api_on(database_url) as api:
        assert (await api.send(_body(), **{"content-type": content_type})).status_code == 201


async def test_no_content_type_at_all(api: Api) -> None:
    response = await api.client.post("/applications", content=_body())
    assert response.status_code == 415


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_body_above_the_limit(database_url: str, declared: bool) -> None:
    async with api_on(database_url, max_body_size=1_000) as api:

        async def chunks(body: bytes) -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100):
                yield body[start : start + 100]

        for size, status in ((1_000, 201), (1_001, 413), (100_000, 413)):
            body = _body() + b" " * (size - len(_body()))
            response = await api.client.post(
                "/applications",
                content=body if declared else chunks(body),
                headers={"content-type": "application/json"},
            )
            assert response.status_code == status
            if status == 413:
                assert response.headers["content-type"] == MEDIA_TYPE
                assert response.json()["type"] == "/problems/body-too-large"
                assert "1000" in response.json()["detail"]
        assert await api.stored() == (1, 1)


@pytest.mark.parametrize(
    "text",
    ["'; DROP TABLE applications; --", "%_\\", "\u202eRTL", "a\u0300" * 50, "😀", "\u200b"],
    ids=["SQL", "wildcards", "right to left", "combining", "emoji", "zero width"],
)
async def test_odd_text_is_kept_as_it_is(database_url: str, text: str) -> None:
    async with api_on(database_url) as api:
        created = await api.apply(text, text)
        assert created.status_code == 201
        assert created.json()["user_name"] == text
        found = await api.client.get("/applications", params={"user_name": text})
        assert found.json()["items"] == [created.json()]


async def test_the_longest_is_accepted(database_url: str) -> None:
    # 𝅘𝅥𝅰 becomes three characters of four bytes each when it is folded.
    async with api_on(database_url) as api:
        assert (await api.apply("\U0001d161" * 200, "я" * 10_000)).status_code == 201
