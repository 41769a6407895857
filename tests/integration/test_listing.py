"""`GET /applications`: filters, order, pages by number and by the item before them, totals."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.api.paging import REACH
from tests.api import Api, api_on


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


async def _list(api: Api, **params: str | int) -> dict[str, Any]:
    response = await api.client.get("/applications", params=params)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


async def _names(api: Api, **params: str | int) -> list[str]:
    return [item["user_name"] for item in (await _list(api, **params))["items"]]


async def _follow(api: Api, target: str) -> list[list[int]]:
    """The ids of each page, from this one on, by `rel="next"`."""
    pages, following = [], re.search("(.*)", target)
    while following:
        response = await api.client.get(following[1])
        assert response.status_code == 200, response.text
        pages.append([item["id"] for item in response.json()["items"]])
        following = re.search(r'<([^<]*)>; rel="next"', response.headers["link"])
    return pages


async def _fill(api: Api, rows: int) -> None:
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO applications (user_name, user_name_folded, description, created_at) "
            "SELECT 'User ' || i % 7, 'user ' || i % 7, 'd', timestamptz '2026-01-01 00:00+0' + i * interval '1 min' "
            "FROM generate_series(1, $1::integer) AS i",
            (rows,),
        )


async def test_a_part_of_the_name_whatever_the_case(api: Api) -> None:
    for name in ("Анна", "Марианна", "Boris", "STRASSE", "A\u030asa"):
        await api.apply(name)
    assert await _names(api, user_name__like="АНН") == ["Марианна", "Анна"]
    assert await _names(api, user_name__like="aß") == ["STRASSE"]
    assert await _names(api, user_name__like="å") == ["A\u030asa"]
    assert await _names(api, user_name__like="x") == []


async def test_the_beginning_of_the_name(api: Api) -> None:
    for name in ("Анна", "Марианна", "аннушка"):
        await api.apply(name)
    assert await _names(api, user_name__startswith="АНН") == ["аннушка", "Анна"]
    assert await _names(api, user_name__startswith="анна", user_name__like="н") == ["Анна"]


@pytest.mark.parametrize("odd", ["%", "_", "\\", "%%", "_n", "'", "/", "\\%"])
async def test_no_character_is_a_wildcard(api: Api, odd: str) -> None:
    await api.apply("Anna")
    for name in (f"{odd}x", f"x{odd}"):
        await api.apply(name)
    assert await _names(api, user_name__like=odd) == [f"x{odd}", f"{odd}x"]
    assert await _names(api, user_name__startswith=odd) == [f"{odd}x"]


async def test_a_range_of_time(api: Api) -> None:
    await _fill(api, 10)
    page = await _list(api, created_from="2026-01-01T00:03:00Z", created_before="2026-01-01T03:06:00+03:00")
    assert [item["id"] for item in page["items"]] == [5, 4, 3]
    assert page["total"] == 3
    assert (await _list(api, created_from="2026-01-01T00:10:00Z"))["total"] == 1
    assert (await _list(api, created_before="0001-01-02T00:00:00Z"))["items"] == []
    assert (await _list(api, created_from="9999-12-30T00:00:00Z"))["items"] == []


@pytest.mark.parametrize(
    "moment",
    [
        "0",
        "1767225600",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00 03:00",
        "now",
        "infinity",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "2026-02-30T00:00:00Z",
        "12026-01-01T00:00:00Z",
    ],
)
async def test_what_is_no_moment(api: Api, moment: str) -> None:
    for field in ("created_from", "created_before"):
        response = await api.client.get("/applications", params={field: moment})
        assert response.status_code == 422
        assert [(e["in"], e["field"]) for e in response.json()["errors"]] == [("query", field)]
        assert moment not in response.json()["errors"][0]["message"] or moment in ("0", "now")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("order=random", "order"),
        ("order=newest;DROP", "order"),
        ("count=all", "count"),
        ("after=0", "after"),
        ("after=x", "after"),
        ("after=1&page=2", "page"),
        (f"page={REACH + 1}&size=1", "page"),
        ("page=102&size=100", "page"),
        ("user_name__like=", "user_name__like"),
        ("user_name__like=a%00b", "user_name__like"),
        ("user_name__startswith=" + "x" * 201, "user_name__startswith"),
        ("user_name__icontains=x", "user_name__icontains"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_query_that_cannot_be(api: Api, query: str, field: str) -> None:
    response = await api.client.get(f"/applications?{query}")
    assert response.status_code == 422
    assert [(e["in"], e["field"]) for e in response.json()["errors"]] == [("query", field)]


async def test_oldest_first(api: Api) -> None:
    await _fill(api, 5)
    pages = await _follow(api, "/applications?order=oldest&size=2")
    assert pages == [[1, 2], [3, 4], [5]]
    assert await _follow(api, "/applications?order=oldest&size=2&after=2") == [[3, 4], [5]]


@pytest.mark.parametrize("filters", ["", "&user_name=USER 3", "&user_name__like=ser", "&user_name__startswith=us"])
@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_after_leads_through_all_of_them(api: Api, filters: str, order: str) -> None:
    await _fill(api, 50)
    numbered = await _follow(api, f"/applications?size=4&order={order}{filters}")
    start, *rest = numbered
    assert await _follow(api, f"/applications?size=4&order={order}{filters}&after={start[-1]}") == rest
    ids = [number for page in numbered for number in page]
    assert len(ids) == len(set(ids))
    assert ids == sorted(ids, reverse=order == "newest")


async def test_moments_that_are_the_same_do_not_lose_anybody(api: Api) -> None:
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO applications (user_name, user_name_folded, description, created_at) "
            "SELECT 'u', 'u', 'd', '2026-01-01' FROM generate_series(1, 9)"
        )
    assert await _follow(api, "/applications?size=4&after=9") == [[8, 7, 6, 5], [4, 3, 2, 1]]


async def test_after_somebody_who_is_not_there(api: Api) -> None:
    response = await api.client.get("/applications?after=1")
    assert response.status_code == 404


async def test_what_is_not_counted(api: Api) -> None:
    await _fill(api, 5)
    assert {**await _list(api, count="none", size=2), "items": None} == {
        "items": None,
        "total": None,
        "page": 1,
        "size": 2,
        "pages": None,
    }
    assert await _follow(api, "/applications?count=none&size=2") == [[5, 4], [3, 2], [1]]
    assert (await _list(api, after=5, size=2))["page"] is None


async def test_a_total_is_exact_up_to_a_cap_and_then_says_so(api: Api) -> None:
    await _fill(api, REACH)
    assert {**await _list(api), "items": None} == {
        "items": None,
        "total": REACH,
        "page": 1,
        "size": 10,
        "pages": REACH // 10,
    }
    await api.apply()
    page = await _list(api)
    assert (page["total"], page["total_is_lower_bound"]) == (REACH, True)
    # The last page by number; from there it goes on by the last item.
    response = await api.client.get("/applications", params={"page": REACH // 100, "size": 100})
    links = {relation: target for target, relation in re.findall(r'<(.*?)>; rel="(\w+)"', response.headers["link"])}
    assert set(links) == {"first", "prev", "next"}
    assert "after=" in links["next"]
    assert (await _follow(api, links["next"])) == [[1]]


async def test_a_search_that_takes_too_long_is_refused_by_name(database_url: str) -> None:
    async with api_on(database_url, search_deadline=0.001) as api:
        await _fill(api, 50_000)
        response = await api.client.get("/applications?user_name__like=zzz")
        assert response.status_code == 422
        assert response.json()["type"] == "/problems/too-slow"
        assert (await api.client.get("/applications?user_name=zzz")).json()["total"] == 0  # only searches are bounded
        assert (await api.apply()).status_code == 201
