"""Tasks, from being accepted to being answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import QueuePool, text

from app.errors import Conflict
from app.tasks import claims, settling
from app.tasks.claims import Claim
from app.tasks.database import Database
from app.tasks.outcomes import Answered, Blocked, Busy, Failed, Outcome, Refused, Unknown
from app.tasks.queue import terms_of
from tests.providing import MemoryProvider, serving_fakes
from tests.tasking import Tasks, running, tasks_on
from tests.waiting import until

RESULTS, ERRORS = "integration.results", "integration.errors"

_WAIT = """
    CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$
"""
_WAIT_AT_THE_FIRST = """
    CREATE TRIGGER wait_for_the_test BEFORE INSERT ON integration_attempts
    FOR EACH ROW WHEN (NEW.task_id = 1) EXECUTE FUNCTION wait_for_the_test()
"""


@pytest.fixture
async def tasks(database_url: str) -> AsyncIterator[Tasks]:
    async with tasks_on(database_url) as tasks:
        yield tasks


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


async def test_each_type_is_answered_stored_and_published(tasks: Tasks) -> None:
    async with serving_fakes() as served:
        from app.tasks.providers import connect_all

        await tasks.accept(1, "8 (916) 123-45-67", "phone")
        await tasks.accept(2, "serega@yandex/ru", "email")
        await tasks.accept(3, "Why?", "gpt")
        settings = tasks.settings.model_copy(update={"fakes_url": served.url})
        async with connect_all(settings) as providers, running(settings, providers):
            await tasks.reach("done")
    rows = await tasks.query(
        "SELECT t.task_id, r.id, r.task_type, r.data FROM integration_tasks AS t "
        "JOIN integration_service AS r ON r.id = t.result_id ORDER BY t.task_id"
    )
    assert [(row.task_id, row.task_type) for row in rows] == [(1, "phone"), (2, "email"), (3, "gpt")]
    phone, email, gpt = (row.data for row in rows)
    assert (phone["source"], phone["phone"], phone["qc"]) == ("8 (916) 123-45-67", "+7 916 123-45-67", 0)
    assert (email["email"], email["qc"]) == ("serega@yandex.ru", 4)
    assert gpt["alternatives"][0]["status"] == "ALTERNATIVE_STATUS_FINAL"
    published = sorted(await tasks.messages(RESULTS))
    assert published == sorted(f'{{"task_id":{row.task_id},"id":{row.id}}}' for row in rows)
    assert await tasks.messages(ERRORS) == []


async def test_a_bad_phone_is_a_result_like_any_other(tasks: Tasks, provider: MemoryProvider) -> None:
    provider.endings.append(Answered({"source": "rubbish", "phone": None, "qc": 2, "unheard": "of"}))
    await tasks.accept(1, "rubbish")
    async with running(tasks.settings, provider):
        await tasks.reach("done")
    ((data,),) = await tasks.query("SELECT data FROM integration_service")
    assert data == {"source": "rubbish", "phone": None, "qc": 2, "unheard": "of"}
    assert len(await tasks.messages(RESULTS)) == 1


async def test_a_task_is_taken_once_and_answered_again(tasks: Tasks, provider: MemoryProvider) -> None:
    first = await asyncio.gather(*(tasks.accept(7, "Why?", "gpt") for _ in range(6)))
    assert {each.state for each in first} == {"pending"}
    async with running(tasks.settings, provider):
        await tasks.reach("done")
    again = await tasks.accept(7, "Why?", "gpt")
    assert again.state == "done"
    assert again.result_id is not None
    assert provider.billed == ["Why?"]
    assert len(await tasks.messages(RESULTS)) == 1


async def test_a_number_is_not_used_for_another_task(tasks: Tasks) -> None:
    await tasks.accept(7, "Why?", "gpt")
    with pytest.raises(Conflict):
        await tasks.accept(7, "Why not?", "gpt")
    with pytest.raises(Conflict):
        await tasks.accept(7, "Why?", "phone")


async def test_equal_inputs_are_paid_once_however_many_ask_at_once(tasks: Tasks, provider: MemoryProvider) -> None:
    spellings = ["89161234567", "8 916 123-45-67", " 8 (916) 123.45.67 "]
    provider.gate.clear()
    for number in range(12):
        await tasks.accept(number, spellings[number % 3])
    async with running(tasks.settings, provider), running(tasks.settings, provider):

        async def asked() -> bool:
            return provider.in_flight == 1

        await until(asked)
        provider.gate.set()
        await tasks.reach("done")
    late = await tasks.accept(99, "8(916)1234567")
    assert late.state == "done"
    assert len(provider.billed) == 1
    sources = await tasks.query(
        "SELECT t.input, r.data ->> 'source' FROM integration_tasks AS t "
        "JOIN integration_service AS r ON r.id = t.result_id"
    )
    assert len(sources) == 13
    assert all(text == source for text, source in sources)
    assert len(await tasks.messages(RESULTS)) == 13


async def test_each_prompt_gets_an_answer_of_its_own(tasks: Tasks, provider: MemoryProvider) -> None:
    await tasks.accept(1, "Why?", "gpt")
    await tasks.accept(2, "Why?", "gpt")
    async with running(tasks.settings, provider):
        await tasks.reach("done")
    assert provider.billed == ["Why?", "Why?"]


async def test_no_connection_is_held_and_no_slot_is_exceeded_while_providers_think(
    tasks: Tasks, provider: MemoryProvider
) -> None:
    provider.gate.clear()
    for number in range(20):
        await tasks.accept(number, f"8916123456{number}")
    async with running(tasks.settings, provider) as one, running(tasks.settings, provider) as other:

        async def busy() -> bool:
            return provider.in_flight == tasks.settings.dadata_slots

        await until(busy)

        engines = (one.engine, other.engine)

        async def at_rest() -> bool:
            return all(isinstance(each.pool, QueuePool) and each.pool.checkedout() == 0 for each in engines)

        # They look for due tasks now and then, and hold nothing in between.
        for _ in range(20):
            await until(at_rest)
            assert provider.in_flight <= tasks.settings.dadata_slots
        provider.gate.set()
        await tasks.reach("done")
    assert len(provider.billed) == 20
    ((free,),) = await tasks.query("SELECT count(*) FROM integration_slots WHERE leased_until > clock_timestamp()")
    assert free == 0


@pytest.mark.parametrize("ending", [Failed("HTTP_503"), Busy("HTTP_429", timedelta(seconds=0.05)), Unknown("Lost")])
async def test_what_passes_is_tried_again(tasks: Tasks, provider: MemoryProvider, ending: Outcome) -> None:
    provider.endings.extend([ending, ending])
    await tasks.accept(1, "89161234567")
    async with running(tasks.settings, provider):
        await tasks.reach("done")
    is_unknown = isinstance(ending, Unknown)
    assert len(provider.billed) == (3 if is_unknown else 1)
    assert await tasks.unknown() == (2 if is_unknown else 0)


async def test_a_refusal_is_final_and_told(tasks: Tasks, provider: MemoryProvider) -> None:
    provider.endings.append(Refused("HTTP_400"))
    await tasks.accept(5, "89161234567")
    async with running(tasks.settings, provider):
        await tasks.reach("failed")
    assert [json.loads(message) for message in await tasks.messages(ERRORS)] == [
        {
            "task_id": 5,
            "task_type": "phone",
            "error": {"code": "PROVIDER_REFUSED", "message": "the provider does not take this input"},
        }
    ]
    assert await tasks.messages(RESULTS) == []
    assert (await tasks.accept(5, "89161234567")).error == "PROVIDER_REFUSED"


async def test_unknown_outcomes_are_tried_no_more_often_than_the_budget_allows(
    tasks: Tasks, provider: MemoryProvider
) -> None:
    provider.endings.extend([Unknown("Lost")] * 50)
    await tasks.accept(5, "89161234567")
    async with running(tasks.settings, provider):
        await tasks.reach("failed")
    assert len(provider.billed) == tasks.settings.dadata_attempts == await tasks.unknown()
    assert [json.loads(message)["error"]["code"] for message in await tasks.messages(ERRORS)] == ["OUTCOME_UNKNOWN"]


async def test_a_task_that_always_fails_while_others_do_not_fails_in_the_end(tasks: Tasks) -> None:
    class Picky(MemoryProvider):
        async def ask(self, question: object) -> Outcome:
            return Failed("HTTP_500") if "poison" in str(getattr(question, "text", "")) else Answered({"qc": 0})

    await tasks.accept(0, "poison")
    async with running(tasks.settings, Picky()):
        number = 0

        async def failed() -> bool:
            nonlocal number
            number += 1
            await tasks.accept(number, f"8916{number:07}")
            return (await tasks.states())[0] == "failed"

        await until(failed)
    assert [json.loads(message)["error"]["code"] for message in await tasks.messages(ERRORS)] == [
        "PROVIDER_UNAVAILABLE"
    ]


async def test_a_provider_that_is_down_costs_no_task_and_delays_no_other_provider(tasks: Tasks) -> None:
    dadata, yandexgpt = MemoryProvider(), MemoryProvider()
    dadata.endings.extend([Failed("ConnectError")] * 12)
    for number in range(5):
        await tasks.accept(number, f"8916123456{number}")
    async with running(tasks.settings, {"dadata": dadata, "yandexgpt": yandexgpt}):
        await tasks.accept(100, "Why?", "gpt")
        await tasks.reach("done", 100)
        await tasks.reach("done")
    assert len(dadata.billed) == 5
    assert await tasks.messages(ERRORS) == []


async def test_a_provider_without_money_is_left_alone_and_its_tasks_wait(tasks: Tasks) -> None:
    dadata, yandexgpt = MemoryProvider(), MemoryProvider()
    dadata.endings.extend([Blocked("HTTP_403")] * 8)
    for number in range(5):
        await tasks.accept(number, f"8916123456{number}")
    async with running(tasks.settings, {"dadata": dadata, "yandexgpt": yandexgpt}):

        async def blocked() -> bool:
            return bool(await tasks.query("SELECT 1 FROM integration_providers WHERE blocked = 'HTTP_403'"))

        await until(blocked)
        await tasks.accept(100, "Why?", "gpt")
        await tasks.reach("done", 100)
        await tasks.reach("done")  # somebody paid
    assert len(dadata.billed) == 5
    ((tries,),) = await tasks.query("SELECT sum(tries) FROM integration_tasks")
    assert tries == 0
    assert not await blocked()


async def test_a_prompt_whose_outcome_is_unknown_is_held_and_paid_once(tasks: Tasks, provider: MemoryProvider) -> None:
    provider.endings.append(Unknown("ReadTimeout"))
    await tasks.accept(1, "Why?", "gpt")
    await tasks.accept(2, "How?", "gpt")
    async with running(tasks.settings, provider):
        await tasks.reach("done", 2)
        await tasks.reach("held", 1)
    assert sorted(provider.billed) == ["How?", "Why?"]
    assert await tasks.unknown("yandexgpt") == 1


async def test_an_operation_is_stored_at_once_and_asked_about_until_it_is_done(database_url: str) -> None:
    provider = MemoryProvider(is_async=True)
    async with tasks_on(database_url) as tasks:
        for number in range(5):
            await tasks.accept(number, f"Why {number}?", "gpt")
        async with running(tasks.settings, provider):
            await tasks.reach("done")
        assert len(provider.billed) == 5
        ((attempts,),) = await tasks.query("SELECT count(*) FROM integration_attempts")
        assert attempts == 5


async def test_the_rate_holds_over_all_processes(database_url: str, provider: MemoryProvider) -> None:
    async with tasks_on(database_url, dadata_rate=50, dadata_slots=2) as tasks:
        for number in range(20):
            await tasks.accept(number, f"8916123{number:04}")
        async with running(tasks.settings, provider), running(tasks.settings, provider):
            await tasks.reach("done")
        ((span,),) = await tasks.query(
            "SELECT extract(epoch FROM max(started_at) - min(started_at)) FROM integration_attempts"
        )
        assert span >= 18 / 50  # two slots begin at once
        assert len(provider.billed) == 20


async def test_an_answer_that_comes_while_an_equal_task_is_claimed_is_not_asked_for_again(tasks: Tasks) -> None:
    """The claim's own snapshot is older than the answer; its look into the cache is not."""
    database = Database(tasks.settings, tasks.engine)

    async def claim() -> Claim | None:
        return await database.single(
            partial(
                claims.claim,
                provider="dadata",
                terms=terms_of(tasks.settings, "dadata"),
                holder=uuid4(),
                idle=[],
                deadline=tasks.settings.task_deadline,
                ttl=tasks.settings.task_cache_ttl,
            )
        )

    async def is_held_up() -> bool:
        return bool(await tasks.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    for number in (1, 2):
        await tasks.accept(number, "89161234567")
    async with tasks.engine.connect() as holding:
        await holding.execute(text(_WAIT))
        await holding.execute(text(_WAIT_AT_THE_FIRST))
        await holding.execute(text("SELECT pg_advisory_lock(1)"))
        await holding.commit()
        late = asyncio.create_task(claim())
        await until(is_held_up)
        first = await claim()
        assert first is not None
        assert (first.task_id, first.cached) == (2, None)
        await database.write(
            partial(settling.settle, claim=first, outcome=Answered({"qc": 0}), settings=tasks.settings)
        )
        await holding.execute(text("SELECT pg_advisory_unlock(1)"))
        found = await late
    assert found is not None
    assert (found.task_id, found.cached) == (1, {"qc": 0})
