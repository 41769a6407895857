"""Tasks over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest

from app.tasks.outcomes import Refused, Unknown
from tests.api import Api, api_on
from tests.providing import MemoryProvider
from tests.tasking import Tasks, running, tasks_on
from tests.waiting import until

URL = "/api/integration_service/"
CANARY = "8 916 555-73-19"
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class World:
    api: Api
    tasks: Tasks
    provider: MemoryProvider

    async def send(self, body: object, wait: int | None = None) -> httpx2.Response:
        headers = {} if wait is None else {"prefer": f"wait={wait}"}
        return await self.api.client.post(URL, json=body, headers=headers)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with tasks_on(database_url) as tasks, api_on(database_url, task_wait=20) as api:
        yield World(api, tasks, MemoryProvider())


def phone(task_id: object = 1, data: object = CANARY) -> dict[str, object]:
    return {"task_id": task_id, "task_type": "phone", "data": data}


async def test_the_result_is_waited_for(world: World) -> None:
    async with running(world.tasks.settings, world.provider):
        response = await world.send(phone())
    assert response.status_code == 200
    assert response.json() == {"task_id": 1, "id": 1}
    result = (await world.api.client.get(f"{URL}1")).json()
    assert result == {"id": 1, "task_type": "phone", "data": {"source": CANARY, "phone": CANARY, "qc": 0}}


async def test_who_does_not_wait_is_told_where_to_ask(world: World) -> None:
    response = await world.send(phone(), wait=0)
    assert response.status_code == 202
    assert response.headers["location"] == "/api/integration_service/tasks/1"
    assert response.headers["preference-applied"] == "wait=0"
    state = (await world.api.client.get(response.headers["location"])).json()
    assert (state["state"], state["id"], state["error"], state["attempts"]) == ("pending", None, None, 0)
    async with running(world.tasks.settings, world.provider):
        await world.tasks.reach("done")
    state = (await world.api.client.get(response.headers["location"])).json()
    assert (state["state"], state["id"], state["attempts"]) == ("done", 1, 1)
    assert CANARY not in json.dumps(state)
    assert (await world.send(phone())).json() == {"task_id": 1, "id": 1}


async def test_many_wait_at_once_and_all_get_the_same(world: World) -> None:
    world.provider.gate.clear()
    async with running(world.tasks.settings, world.provider):
        senders = [asyncio.create_task(world.send(phone(str(number % 5)))) for number in range(30)]

        async def asked() -> bool:
            return world.provider.in_flight == 1 and len(await world.tasks.states()) == 5

        await until(asked)
        world.provider.gate.set()
        responses = await asyncio.gather(*senders)
    assert {response.status_code for response in responses} == {200}
    assert len({response.text for response in responses}) == 5
    assert len(world.provider.billed) == 1


async def test_waiting_ends_in_time(world: World) -> None:
    async with api_on(world.tasks.url, task_wait_max=0.2) as api:
        response = await api.client.post(URL, json=phone(), headers={"prefer": "respond-async, wait=3600"})
    assert response.status_code == 202


async def test_another_task_of_this_number_is_a_conflict(world: World) -> None:
    await world.send(phone(), wait=0)
    response = await world.send(phone(data="8 916 000-00-00"), wait=0)
    assert response.status_code == 409
    assert response.headers["content-type"] == PROBLEM
    assert "916" not in response.text


async def test_a_failed_task_is_a_problem_each_time(world: World) -> None:
    world.provider.endings.append(Refused("HTTP_400"))
    async with running(world.tasks.settings, world.provider):
        first = await world.send(phone())
    again = await world.send(phone())
    for response in (first, again):
        assert response.status_code == 502
        assert response.headers["content-type"] == PROBLEM
        assert response.json()["code"] == "PROVIDER_REFUSED"
        assert response.json()["task_id"] == 1
        assert "916" not in response.text


async def test_a_held_task_is_not_waited_for(world: World) -> None:
    world.provider.endings.append(Unknown("ReadTimeout"))
    async with running(world.tasks.settings, world.provider):
        response = await world.send({"task_id": 1, "task_type": "gpt", "data": "Why?"}, wait=30)
    assert (response.status_code, response.json()["state"]) == (202, "held")


@pytest.mark.parametrize("task_id", ["7", "0007", 7, str(2**63 - 1), 2**63 - 1, -(2**63), 0], ids=range(7))
async def test_numbers_of_tasks(world: World, task_id: object) -> None:
    response = await world.send(phone(task_id), wait=0)
    assert response.status_code == 202
    assert response.json()["task_id"] == int(str(task_id))
    assert (await world.api.client.get(response.headers["location"])).status_code == 200


_BAD = {
    "true": phone(True),
    "false": phone(False),
    "null": phone(None),
    "fraction": phone(1.5),
    "a whole fraction": phone(1.0),
    "too large": phone(2**63),
    "too small": phone(-(2**63) - 1),
    "too large a string": phone(str(2**63)),
    "a very long string": phone("9" * 5000),
    "no digits": phone("seven"),
    "blanks": phone(" 7"),
    "a sign": phone("-7"),
    "other digits": phone("٧"),
    "list": phone([1]),
    "unknown type": {"task_id": 1, "task_type": "fax", "data": CANARY},
    "type in capitals": {"task_id": 1, "task_type": "PHONE", "data": CANARY},
    "type is no string": {"task_id": 1, "task_type": 1, "data": CANARY},
    "no data": {"task_id": 1, "task_type": "phone"},
    "empty data": phone(data=""),
    "blank data": phone(data=" \n"),
    "data is a number": phone(data=89165557319),
    "over-long phone": phone(data=CANARY + " " * 100),
    "over-long email": {"task_id": 1, "task_type": "email", "data": "x" * 101},
    "over-long prompt": {"task_id": 1, "task_type": "gpt", "data": "x" * 10_001},
    "NUL": phone(data=CANARY + "\0"),
    "surrogate": phone(data=CANARY + "\ud800"),
    "unknown field": phone() | {"x": CANARY},
}


@pytest.mark.parametrize("body", _BAD.values(), ids=_BAD)
async def test_what_is_no_task_is_refused_without_a_call(world: World, body: object) -> None:
    content = json.dumps(body).encode()
    response = await world.api.client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.headers["content-type"] == PROBLEM
    assert response.json()["errors"]
    assert "555-73" not in response.text
    assert await world.tasks.states() == {}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e2", "18446744073709551616"])
async def test_numbers_that_only_json_knows_are_refused(world: World, number: str) -> None:
    content = b'{"task_id": %s, "task_type": "phone", "data": "1"}' % number.encode()
    response = await world.api.client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["task_id"]


async def test_lists_of_results_and_of_tasks(world: World) -> None:
    for number in range(1, 6):
        await world.send(phone(number, f"8916123456{number}"), wait=0)
    await world.send({"task_id": 6, "task_type": "gpt", "data": "Why?"}, wait=0)
    async with running(world.tasks.settings, world.provider):
        await world.tasks.reach("done")
    await world.send(phone(7, "89990000000"), wait=0)
    get = world.api.client.get
    page = (await get(URL, params={"task_type": "phone", "size": 2})).json()
    assert (page["total"], page["pages"], len(page["items"])) == (5, 3, 2)
    assert page["items"][0]["id"] > page["items"][1]["id"]
    assert {item["task_type"] for item in page["items"]} == {"phone"}
    pending = await get(URL + "tasks", params={"state": "pending"})
    assert [item["task_id"] for item in pending.json()["items"]] == [7]
    assert "state=pending" in pending.headers["link"]
    assert [item["task_id"] for item in (await get(URL + "tasks")).json()["items"]] == [7, 6, 5, 4, 3, 2, 1]
    for query in ("state=lost", "task_type=fax", "page=0", "size=1000", "nonsense=1"):
        assert (await get(f"{URL}tasks?{query}")).status_code == 422


@pytest.mark.parametrize("path", ["99", "tasks/99"])
async def test_what_is_not_there(world: World, path: str) -> None:
    assert (await world.api.client.get(URL + path)).status_code == 404


@pytest.mark.parametrize("path", ["0", "x", "9223372036854775808", "tasks/x", "tasks/9223372036854775808"])
async def test_what_is_no_number(world: World, path: str) -> None:
    assert (await world.api.client.get(URL + path)).status_code == 422
