"""`GET /messages/{message_id}`: where a message is, while a relay moves it from table to table."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import make_url

from app.outbox.message import new_message_id
from app.outbox.roles import APP, statements
from tests.api import Api, api_on
from tests.engine import Broker, connect, engine
from tests.ledger import Ledger
from tests.operating import discard, pause, resume, retry, set_policy
from tests.services.postgres_server import PostgresServer
from tests.waiting import until


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


async def _where(api: Api, message_id: object, **headers: str) -> dict[str, Any]:
    response = await api.client.get(f"/messages/{message_id}", headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    assert found["message_id"] == str(message_id)
    return found


async def _reaches(api: Api, message_id: object, state: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        found = await _where(api, message_id)
        return found if found["state"] == state else None

    return await until(reached) or {}


async def test_owed_then_delivered(api: Api, database_url: str) -> None:
    created = await api.apply()
    message_id = created.headers["outbox-message-id"]
    owed = await _where(api, message_id)
    assert owed.keys() == {"message_id", "topic", "type", "created_at", "state"}
    assert (owed["state"], owed["topic"], owed["type"]) == ("owed", "applications.events", "application.created")

    broker = Broker()
    async with engine(database_url, broker):
        delivered = await _reaches(api, message_id, "delivered")
    (record,) = broker.records
    assert (delivered["topic"], delivered["partition"], delivered["offset"]) == (
        record.topic,
        record.partition,
        record.offset,
    )
    assert delivered["created_at"] == owed["created_at"]
    assert datetime.fromisoformat(delivered["delivered_at"]) > datetime.fromisoformat(owed["created_at"])


async def test_dead_and_what_waits_behind_it(api: Api, database_url: str) -> None:
    broker = Broker()
    broker.poison = {b"bad"}
    async with connect(database_url) as connection:
        bad, follower = await Ledger(connection).add("t", [(b"key", b"bad"), (b"key", b"2")])
        first, second = bad.message_id, follower.message_id
        async with engine(database_url, broker):
            dead = await _reaches(api, first, "dead")
            assert (dead["reason"], dead["refusals"], dead["policy"]) == ("MESSAGE_TOO_LARGE", 1, "park")
            parked = await _reaches(api, second, "parked")
            assert (parked["behind_message_id"], parked["topic_state"]) == (str(first), "open")

            await discard(database_url, bad)
            discarded = await _where(api, first)
            assert (discarded["state"], discarded["decision_reason"]) == ("discarded", "not wanted")
            assert "decided_by" not in discarded
            assert "key" not in discarded
            await _reaches(api, second, "delivered")


async def test_a_dead_letter_that_is_sent_again(api: Api, database_url: str) -> None:
    broker = Broker()
    broker.poison = {b"bad"}
    async with connect(database_url) as connection:
        (bad,) = await Ledger(connection).add("t", [(b"key", b"bad")])
        async with engine(database_url, broker):
            await _reaches(api, bad.message_id, "dead")
        await retry(database_url, bad)
        assert (await _where(api, bad.message_id))["state"] == "owed"  # nothing holds it, no relay runs
        broker.poison.clear()
        async with engine(database_url, broker):
            await _reaches(api, bad.message_id, "delivered")


async def test_the_policy_of_its_topic(api: Api, database_url: str) -> None:
    broker = Broker()
    broker.poison = {b"bad"}
    async with connect(database_url) as connection:
        await set_policy(database_url, "t", "continue")
        (bad,) = await Ledger(connection).add("t", [(b"key", b"bad")])
        async with engine(database_url, broker):
            assert (await _reaches(api, bad.message_id, "dead"))["policy"] == "continue"


async def test_parked_behind_its_topic(api: Api, database_url: str) -> None:
    broker = Broker()
    async with connect(database_url) as connection:
        await pause(database_url, "t")
        (held,) = await Ledger(connection).add("t", [(b"key", b"1")])
        async with engine(database_url, broker):
            parked = await _reaches(api, held.message_id, "parked")
        assert (parked["behind_message_id"], parked["topic_state"], parked["topic_reason"]) == (None, "paused", "test")
        await resume(database_url, "t")
        assert (await _where(api, held.message_id))["state"] == "owed"


async def test_never_committed_or_too_old_or_without_receipts(api: Api, database_url: str) -> None:
    too_old = UUID(int=(1_000 << 80) | (7 << 76) | (2 << 62))
    details = {}
    for message_id in (new_message_id(), too_old, uuid4(), UUID(int=2**128 - 1)):
        response = await api.client.get(f"/messages/{message_id}")
        assert response.status_code == 404
        details[message_id] = response.json()["detail"]
    first, *others = details.values()
    assert first == "it was not committed (yet)"
    assert all("7 days" in detail for detail in others[:2])
    async with api_on(database_url, receipts=False) as without:
        response = await without.client.get(f"/messages/{new_message_id()}")
        assert "no receipts are kept" in response.json()["detail"]


@pytest.mark.parametrize("given", ["1", "x", "%00", "0" * 5000, "' OR 1=1 --"])
async def test_what_is_no_id(api: Api, given: str) -> None:
    response = await api.client.get(f"/messages/{given}")
    assert response.status_code == 422
    assert [(e["in"], e["field"]) for e in response.json()["errors"]] == [("path", "message_id")]


async def test_waiting_for_it(api: Api, database_url: str) -> None:
    message_id = (await api.apply()).headers["outbox-message-id"]
    waiting = asyncio.create_task(api.client.get(f"/messages/{message_id}", headers={"prefer": "wait=8"}))
    async with engine(database_url, Broker()):
        response = await waiting
    assert response.json()["state"] == "delivered"
    assert response.headers["preference-applied"] == "wait=8"


async def test_waiting_is_bounded(database_url: str) -> None:
    async with api_on(database_url, message_wait_max=0.2) as api:
        message_id = (await api.apply()).headers["outbox-message-id"]
        started = time.monotonic()
        response = await api.client.get(f"/messages/{message_id}", headers={"prefer": "respond-async, wait=3600"})
        assert 0.2 <= time.monotonic() - started < 5
        assert response.json()["state"] == "owed"
        assert response.headers["preference-applied"] == "wait=0.2"


@pytest.mark.parametrize("preference", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=x", "wait=0", "return=minimal"])
async def test_other_preferences_are_ignored(api: Api, preference: str) -> None:
    message_id = (await api.apply()).headers["outbox-message-id"]
    response = await api.client.get(f"/messages/{message_id}", headers={"prefer": preference})
    assert response.status_code == 200
    assert "preference-applied" not in response.headers


async def test_no_connection_is_held_while_waiting(database_url: str) -> None:
    # They would hold it for longer than anybody waits for one.
    async with api_on(
        database_url, api_pool_size=1, message_wait_max=60, api_stop_deadline=60, api_database_deadline=15
    ) as api:
        message_id = (await api.apply()).headers["outbox-message-id"]
        waiting = [
            asyncio.create_task(api.client.get(f"/messages/{message_id}", headers={"prefer": "wait=60"}))
            for _ in range(120)
        ]
        assert {(await api.apply()).status_code for _ in range(5)} == {201}
        async with engine(database_url, Broker()):
            answered = [await each for each in waiting]
        assert {each.status_code for each in answered} == {200}
        applied = sum("preference-applied" in each.headers for each in answered)
        assert applied == 100  # those who came later were answered at once


async def test_it_is_never_missing_while_it_moves(api: Api, database_url: str) -> None:
    # From lane to parked, to dead, to parked again, to receipt: asked all the time, it is always somewhere.
    broker = Broker()
    broker.poison = {b"bad"}
    async with connect(database_url) as connection, engine(database_url, broker, refusals_to_close=100):
        (bad,) = await Ledger(connection).add("t", [(b"key", b"bad")])
        over, seen = asyncio.Event(), set()

        async def ask() -> None:
            while not over.is_set():
                seen.add((await _where(api, bad.message_id))["state"])

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for refusals in range(10):
            await _reaches(api, bad.message_id, "dead")
            if refusals == 9:
                broker.poison.clear()
            await retry(database_url, bad)
        await _reaches(api, bad.message_id, "delivered")
        over.set()
        await asyncio.gather(*asking)
    assert seen <= {"owed", "dead", "delivered"}


async def test_the_role_of_the_api_may_ask(api: Api, postgres: PostgresServer, database_url: str) -> None:
    message_id = (await api.apply()).headers["outbox-message-id"]
    name = f"asker_{uuid4().hex[:8]}"
    async with postgres.connection(database_url) as connection:
        for statement in statements(["applications", "users"]):
            await connection.execute(statement)
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {APP}")
    try:
        url = make_url(database_url).set(username=name, password="x").render_as_string(hide_password=False)
        async with api_on(url, backpressure_owed=100) as asker:
            assert (await _where(asker, message_id))["state"] == "owed"
            headers = {"idempotency-key": "k"}
            answers = [await asker.send(b'{"user_name":"a","description":"b"}', **headers) for _ in range(2)]
            assert [each.status_code for each in answers] == [201, 201]
            assert "idempotency-replayed" in answers[1].headers
    finally:
        async with postgres.connection(database_url) as connection:
            await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
