"""Users over HTTP: to look at, in pages, by email."""

from collections.abc import AsyncIterator

import pytest

from tests.api import Api, api_on
from tests.consuming import consuming, record, request_xml, user_xml


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


async def _store(database_url: str, *emails: str) -> None:
    async with consuming(database_url, users_same_email="allow") as users:
        for offset, email in enumerate(emails):
            await users.batches().handle([record(request_xml(user_xml(email)), offset=offset)])


async def test_a_user_as_it_was_stored(api: Api, database_url: str) -> None:
    await _store(database_url, "Ivan@Example.com")
    user = (await api.client.get("/users/1")).json()
    assert user.pop("created_at").endswith("Z")
    assert user == {
        "id": 1,
        "name": "Иван",
        "surname": "Иванов",
        "email": "Ivan@Example.com",
        "birthday": "2005-10-23",
    }
    missing = await api.client.get("/users/2")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")


async def test_newest_first_in_pages_and_by_email(api: Api, database_url: str) -> None:
    await _store(database_url, "a@example.com", "b@example.com", "A@EXAMPLE.com", "c@example.com")
    page = (await api.client.get("/users", params={"size": 3})).json()
    assert [user["id"] for user in page["items"]] == [4, 3, 2]
    assert (page["total"], page["pages"]) == (4, 2)
    response = await api.client.get("/users", params={"email": "a@Example.COM", "size": 1})
    assert [user["email"] for user in response.json()["items"]] == ["A@EXAMPLE.com"]
    assert response.json()["total"] == 2
    assert 'rel="next"' in response.headers["link"]
    assert "email=a%40Example.COM" in response.headers["link"]
    assert (await api.client.get("/users?page=7")).json()["items"] == []
    assert (await api.client.get("/users", params={"email": "nobody@example.com"})).json()["total"] == 0


@pytest.mark.parametrize(
    "query",
    ["page=0", "size=101", "email=", "email=" + "x" * 255, "email=a%00b", "email=%D0%B0", "mail=x", "email=a%20b"],
    ids=lambda query: query[:20],
)
async def test_a_query_that_cannot_be(api: Api, query: str) -> None:
    response = await api.client.get(f"/users?{query}")
    assert response.status_code == 422
    assert response.json()["type"] == "/problems/invalid-request"


async def test_users_are_not_made_over_http(api: Api) -> None:
    assert (await api.client.post("/users", json={})).status_code == 405
