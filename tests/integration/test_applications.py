"""Applications over HTTP, down to the rows."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import event

from tests.api import Api, api_on

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


async def _names(api: Api, **params: str | int) -> list[str]:
    response = await api.client.get("/applications", params=params)
    assert response.status_code == 200
    return [item["user_name"] for item in response.json()["items"]]


async def test_an_application_is_stored_with_its_event(api: Api) -> None:
    response = await api.apply("  Анна ", "Please «connect» 😀")
    assert response.status_code == 201
    application = response.json()
    assert list(application) == ["id", "user_name", "description", "created_at"]
    assert application["user_name"] == "Анна"
    assert application["description"] == "Please «connect» 😀"
    assert _MOMENT.fullmatch(application["created_at"])
    assert response.headers["location"] == f"/applications/{application['id']}"

    (message,) = await api.query("SELECT * FROM outbox_messages")
    assert message.payload == response.content  # the same four fields, byte for byte
    assert "Анна".encode() in message.payload
    assert message.key == str(application["id"]).encode()
    assert (message.topic, message.type) == ("applications.events", "application.created")
    assert message.message_id == UUID(response.headers["outbox-message-id"])
    assert len(api.commits) == 1

    read = await api.client.get(response.headers["location"])
    assert read.json() == application


async def test_the_event_has_the_envelope_of_cloudevents_and_the_trace(api: Api) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await api.send(b'{"user_name":"a","description":"b"}', traceparent=traceparent)
    ((headers,),) = await api.query("SELECT outbox_headers(headers) FROM outbox_messages")
    assert dict(zip(headers[::2], headers[1::2], strict=True)) == {
        b"content-type": b"application/json",
        b"ce_source": b"/outbox-service",
        b"ce_subject": b"1",
        b"traceparent": traceparent.encode(),
    }


async def test_topic_and_source_are_settings(database_url: str) -> None:
    async with api_on(database_url, applications_topic="elsewhere", event_source="/shop") as api:
        await api.apply()
        ((topic, headers),) = await api.query("SELECT topic, outbox_headers(headers) FROM outbox_messages")
        assert topic == "elsewhere"
        assert headers[headers.index(b"ce_source") + 1] == b"/shop"


@pytest.mark.parametrize("path", ["/applications/", "/api/v1/applications", "/api/v1/applications/"])
async def test_other_spellings_of_the_path(api: Api, path: str) -> None:
    created = await api.client.post(path, json={"user_name": "a", "description": "b"})
    assert created.status_code == 201
    assert created.headers["location"] == "/applications/1"
    assert (await api.client.get(path)).json()["total"] == 1
    assert (await api.client.get(path.rstrip("/") + "/1/")).json() == created.json()


async def test_an_application_that_is_not_there(api: Api) -> None:
    for number in (1, 2**63 - 1):
        response = await api.client.get(f"/applications/{number}")
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/not-found"


@pytest.mark.parametrize("number", ["0", "-1", str(2**63), "9" * 5000, "one", "1.5", "%00", "1e3"])
async def test_ids_that_cannot_be(api: Api, number: str) -> None:
    response = await api.client.get(f"/applications/{number}")
    assert response.status_code == 422
    assert [(e["in"], e["field"]) for e in response.json()["errors"]] == [("path", "id")]
    assert number not in response.json()["errors"][0]["message"].split()


async def test_newest_first_in_pages(api: Api) -> None:
    for number in range(7):
        await api.apply(f"user {number}")
    response = await api.client.get("/applications", params={"page": 2, "size": 3})
    page = response.json()
    assert [item["user_name"] for item in page.pop("items")] == ["user 3", "user 2", "user 1"]
    assert page == {"total": 7, "page": 2, "size": 3, "pages": 3}
    links = {relation: target for target, relation in re.findall(r'<(.*?)>; rel="(\w+)"', response.headers["link"])}
    assert set(links) == {"first", "prev", "next", "last"}
    collected = []
    target: str | None = links["first"]
    while target:
        response = await api.client.get(target)
        collected += [item["id"] for item in response.json()["items"]]
        following = re.search(r'<([^<]*)>; rel="next"', response.headers["link"])
        target = following and following[1]
    assert collected == [7, 6, 5, 4, 3, 2, 1]


async def test_the_first_page_has_ten(api: Api) -> None:
    for number in range(11):
        await api.apply(f"user {number}")
    page = (await api.client.get("/applications")).json()
    assert (len(page["items"]), page["total"], page["page"], page["size"], page["pages"]) == (10, 11, 1, 10, 2)


async def test_a_page_after_the_last_is_empty_and_knows_the_total(api: Api) -> None:
    assert (await api.client.get("/applications")).json() == {
        "items": [],
        "total": 0,
        "page": 1,
        "size": 10,
        "pages": 0,
    }
    await api.apply()
    page = (await api.client.get("/applications?page=100&size=100")).json()
    assert (page["items"], page["total"], page["pages"]) == ([], 1, 1)


async def test_one_users_applications_whatever_the_case(api: Api) -> None:
    for name in ("Анна", "аННА", "Анна-Мария", "Ann%", "STRASSE", "A\u030asa", "Anna"):
        await api.apply(name)
    assert await _names(api, user_name="АННА") == ["аННА", "Анна"]
    assert await _names(api, user_name=" анна ") == ["аННА", "Анна"]
    assert await _names(api, user_name="Straße") == ["STRASSE"]
    assert await _names(api, user_name="åsa") == ["A\u030asa"]
    assert await _names(api, user_name="Ann%") == ["Ann%"]
    assert await _names(api, user_name="ann_") == []
    assert await _names(api, user_name="' OR true --") == []
    assert await _names(api, user_name="анна", page=2, size=1) == ["Анна"]
    response = await api.client.get("/applications", params={"user_name": "анна", "size": 1})
    assert response.json()["total"] == 2
    following = re.search(r'<([^<]*)>; rel="next"', response.headers["link"])
    assert following is not None
    assert [item["user_name"] for item in (await api.client.get(following[1])).json()["items"]] == ["Анна"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=1000001", "page"),
        ("page=x", "page"),
        ("page=" + "9" * 5000, "page"),
        ("page=", "page"),
        ("size=0", "size"),
        ("size=101", "size"),
        ("size=1.5", "size"),
        ("user_name=", "user_name"),
        ("user_name=%20", "user_name"),
        ("user_name=a%00b", "user_name"),
        ("user_name=" + "x" * 201, "user_name"),
        ("username=x", "username"),
    ],
    ids=lambda value: str(value)[:25],
)
async def test_a_query_that_cannot_be(api: Api, query: str, field: str) -> None:
    response = await api.client.get(f"/applications?{query}")
    assert response.status_code == 422
    assert [(e["in"], e["field"]) for e in response.json()["errors"]] == [("query", field)]


async def test_a_post_is_two_statements_in_one_commit(api: Api) -> None:
    await api.apply()  # connecting asks a few things of the server
    statements: list[str] = []
    ends: list[str] = []
    sync = api.engine.sync_engine
    event.listen(sync, "before_cursor_execute", lambda *args: statements.append(args[2]))
    event.listen(sync, "commit", lambda _: ends.append("commit"))
    event.listen(sync, "rollback", lambda _: ends.append("rollback"))
    await api.apply()
    assert [re.sub(r"\s+", " ", text.strip())[:24] for text in statements] == [
        "INSERT INTO applications",
        "WITH input AS MATERIALIZ",
    ]
    assert ends == ["commit"]


async def test_posts_at_once_have_one_event_each(api: Api) -> None:
    responses = await asyncio.gather(*(api.apply(f"user {number}") for number in range(40)))
    assert {response.status_code for response in responses} == {201}
    stored = {row.id: row for row in await api.query("SELECT * FROM applications")}
    events = [json.loads(row.payload) for row in await api.query("SELECT payload FROM outbox_messages")]
    assert sorted(each["id"] for each in events) == sorted(stored)
    assert all(stored[each["id"]].user_name == each["user_name"] for each in events)


async def test_an_event_above_the_limit_takes_the_application_with_it(api: Api) -> None:
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql("SELECT outbox_limit_messages(200)")
    response = await api.apply(description="x" * 300)
    assert response.status_code == 422
    assert "MESSAGE_MAX_BYTES" in response.json()["detail"]
    assert await api.stored() == (0, 0)
    assert api.commits == []


async def test_ready(api: Api) -> None:
    response = await api.client.get("/readyz")
    assert response.status_code == 200
    assert {name: state["ready"] for name, state in response.json()["checks"].items()} == {
        "database": True,
        "migrations": True,
    }
