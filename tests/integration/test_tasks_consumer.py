"""Tasks from Kafka, without Kafka: batches of records, and what they leave in the database."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.kafka.batch import Batches
from app.kafka.input import Input
from app.kafka.unreadable import HEADER_NOT_UTF8
from app.tasks.consumer import TasksHandler
from tests.api import api_on
from tests.providing import MemoryProvider
from tests.tasking import Tasks, running, tasks_on

RESULTS, ERRORS, DEAD = "integration.results", "integration.errors", "integration.tasks.dlq"
PHONE = "8 916 555-73-19"


@dataclass(frozen=True)
class World:
    tasks: Tasks
    batches: Batches[Any]
    provider: MemoryProvider

    async def errors(self) -> list[Any]:
        return [json.loads(message) for message in await self.tasks.messages(ERRORS)]


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with tasks_on(database_url) as tasks:
        batches = Batches(
            tasks.settings,
            TasksHandler(tasks.settings),
            name=tasks.settings.tasks_group,
            dead_letters=tasks.settings.kafka_import_dead_letters_topic,
            sessions=tasks.sessions,
        )
        yield World(tasks, batches, MemoryProvider())


def record(value: object, offset: int = 0, **headers: bytes) -> Input:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Input("integration.tasks", 0, offset, -1, b"key", raw, tuple(headers.items()))


def phone(task_id: object = 1, data: object = PHONE) -> dict[str, object]:
    return {"task_id": task_id, "task_type": "phone", "data": data}


async def test_tasks_from_kafka_are_answered_there(world: World) -> None:
    await world.batches.handle([record(phone(number, f"8916{number:07}"), number) for number in (3, 1, 2)])
    async with running(world.tasks.settings, world.provider):
        await world.tasks.reach("done", 1, 2, 3)
    assert {json.loads(each)["task_id"] for each in await world.tasks.messages(RESULTS)} == {1, 2, 3}
    assert await world.errors() == []


async def test_a_task_by_both_ways_at_once_is_one_task(world: World) -> None:
    async with api_on(world.tasks.url) as api, running(world.tasks.settings, world.provider):
        posts = [api.client.post("/api/integration_service", json=phone("1")) for _ in range(5)]
        records = [world.batches.handle([record(phone(), offset)]) for offset in range(5)]
        answers = await asyncio.gather(*posts, *records)
    bodies = {answer.text for answer in answers if answer is not None}
    assert bodies == {'{"task_id":1,"id":1}'}
    assert await world.tasks.messages(RESULTS) == ['{"task_id":1,"id":1}']
    assert len(world.provider.billed) == 1


async def test_the_same_task_in_other_words_is_the_same(world: World) -> None:
    await world.batches.handle(
        [record(phone(1)), record(b'{"data":"%s", "task_type":"phone","task_id":"01"}' % PHONE.encode(), 1)]
    )
    assert await world.errors() == []
    assert await world.tasks.messages(DEAD) == []


async def test_another_task_of_this_number_is_a_dead_letter(world: World) -> None:
    await world.batches.handle([record(phone(1)), record(phone(1, "8 800 000-00-00"), 1), record(phone(2), 2)])
    await world.batches.handle([record(phone(1, "8 800 000-00-00"), 1)])  # and is so once
    assert await world.errors() == [
        {
            "task_id": 1,
            "task_type": "phone",
            "error": {"code": "KEY_REUSED", "message": "there is another task of this number"},
        }
    ]
    assert [json.loads(each)["data"] for each in await world.tasks.messages(DEAD)] == ["8 800 000-00-00"]
    assert set(await world.tasks.states()) == {1, 2}


async def test_what_the_cache_knows_is_answered_with_the_batch(world: World) -> None:
    await world.batches.handle([record(phone(1))])
    async with running(world.tasks.settings, world.provider):
        await world.tasks.reach("done", 1)
    await world.batches.handle([record(phone(number), number) for number in range(2, 6)])
    assert set((await world.tasks.states()).values()) == {"done"}
    assert len(await world.tasks.messages(RESULTS)) == 5
    assert len(world.provider.billed) == 1


_BAD: dict[str, tuple[bytes, int | None, str | None]] = {
    "nothing": (b"", None, None),
    "no JSON": (b"<task/>", None, None),
    "no object": (b"[1]", None, None),
    "true": (b'{"task_id": true, "task_type": "phone", "data": "1"}', None, None),
    "fraction": (b'{"task_id": 1.5, "task_type": "phone", "data": "1"}', None, None),
    "1e400": (b'{"task_id": 1e400, "task_type": "phone", "data": "1"}', None, None),
    "beyond int64": (b'{"task_id": 9223372036854775808, "task_type": "phone", "data": "1"}', None, None),
    "unknown type": (b'{"task_id": 5, "task_type": "fax", "data": "1"}', 5, None),
    "over-long": (b'{"task_id": "5", "task_type": "email", "data": "%s"}' % (b"x" * 101), 5, "email"),
    "blank": (b'{"task_id": 5, "task_type": "gpt", "data": " "}', 5, "gpt"),
    "NUL": (b'{"task_id": 5, "task_type": "gpt", "data": "\\u0000"}', None, None),
    "surrogate": (b'{"task_id": 5, "task_type": "gpt", "data": "\\ud800"}', None, None),
    "name twice": (b'{"task_id": 5, "task_id": 6, "task_type": "gpt", "data": "x"}', None, None),
    "not UTF-8": (b'{"task_id": 5, "task_type": "gpt", "data": "\xff"}', None, None),
}


@pytest.mark.parametrize(("value", "task_id", "task_type"), _BAD.values(), ids=_BAD)
async def test_what_is_no_task_is_a_dead_letter_and_an_error(
    world: World, value: bytes, task_id: int | None, task_type: str | None
) -> None:
    await world.batches.handle([record(value), record(phone(1), 1)])
    (error,) = await world.errors()
    assert (error["task_id"], error["task_type"], error["error"]["code"]) == (task_id, task_type, "INVALID_TASK")
    ((payload,),) = await world.tasks.query("SELECT payload FROM outbox_messages WHERE topic = :topic", topic=DEAD)
    assert payload == value
    assert set(await world.tasks.states()) == {1}
    assert await world.tasks.query("SELECT 1 FROM integration_attempts") == []


async def test_a_task_belongs_to_the_trace_that_it_came_with(world: World) -> None:
    traceparent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await world.batches.handle([record(phone(1), traceparent=traceparent), record(phone(2, "89160000000"), 1)])
    async with running(world.tasks.settings, world.provider):
        await world.tasks.reach("done", 1, 2)
    rows = await world.tasks.query(
        "SELECT convert_from(key, 'UTF8'), outbox_headers(headers) FROM outbox_messages WHERE topic = :t", t=RESULTS
    )
    traced = {key: traceparent in headers for key, headers in rows}
    assert traced == {"1": True, "2": False}


async def test_a_task_whose_record_is_flawed_is_not_taken(world: World) -> None:
    await world.batches.handle([replace(record(phone(7)), flaw=HEADER_NOT_UTF8)])
    assert await world.errors() == [
        {
            "task_id": 7,
            "task_type": "phone",
            "error": {"code": "HEADER_NOT_UTF8", "message": "the name of a header is not UTF-8"},
        }
    ]
    assert await world.tasks.messages(DEAD) == [json.dumps(phone(7))]
