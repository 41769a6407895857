"""Requests that come together share a transaction, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.api.dependencies import Database
from app.api.group_commit import GroupCommit
from app.errors import Conflict, DatabaseUnavailable
from tests.api import Api, api_on
from tests.waiting import until
from tests.writers import sessions_on

_MANY = 40


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    async with sessions_on(database_url, 4) as result:
        yield result


def database(sessions: async_sessionmaker[AsyncSession], deadline: float = 20) -> Database:
    return Database(sessions, timedelta(seconds=deadline), lambda: None)


async def has_begun(work: "Counted", number: int) -> bool:
    return any(number in group for group in work.groups)


class Counted:
    """Answers each number with its double, once it is let through, and notes who came together."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, session: AsyncSession, numbers: Sequence[int]) -> list[int]:
        self.groups.append(list(numbers))
        await self.gate.wait()
        if 13 in numbers:
            raise Conflict("no luck")
        doubled = await session.scalars(text("SELECT 2 * unnest(CAST(:numbers AS integer[]))"), {"numbers": numbers})
        return list(doubled)


async def test_requests_at_once_share_transactions_and_keep_their_own_events_and_traces(api: Api) -> None:
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, _MANY + 1)]
    responses = await asyncio.gather(
        *(api.send(b'{"user_name":"%d","description":"d"}' % n, traceparent=trace) for n, trace in enumerate(traces))
    )
    assert [response.json()["user_name"] for response in responses] == [str(n) for n in range(_MANY)]
    assert len(api.commits) < _MANY / 2
    query = "SELECT message_id, payload, outbox_headers(headers) AS headers FROM outbox_messages"
    rows = {row.message_id: row for row in await api.query(query)}
    for response, trace in zip(responses, traces, strict=True):
        row = rows.pop(next(each for each in rows if str(each) == response.headers["outbox-message-id"]))
        assert row.payload == response.content
        assert row.headers[row.headers.index(b"traceparent") + 1] == trace.encode()
    assert rows == {}


async def test_one_that_cannot_be_stored_does_not_spoil_the_others(api: Api) -> None:
    async with api.engine.begin() as connection:
        await connection.exec_driver_sql("SELECT outbox_limit_messages(500)")
    wrong = {3, 20}
    responses = await asyncio.gather(
        *(api.apply(f"user {n}", "x" * 600 if n in wrong else "x") for n in range(_MANY)),
    )
    assert [response.status_code for response in responses] == [422 if n in wrong else 201 for n in range(_MANY)]
    names = {row.user_name for row in await api.query("SELECT user_name FROM applications")}
    assert names == {f"user {n}" for n in range(_MANY) if n not in wrong}
    assert await api.stored() == (_MANY - len(wrong), _MANY - len(wrong))


async def test_one_that_comes_alone_does_not_wait_for_company(sessions: async_sessionmaker[AsyncSession]) -> None:
    work = Counted()
    work.gate.set()
    group: GroupCommit[int, int] = GroupCommit(work)
    for number in range(3):
        assert await group.do(database(sessions), number) == 2 * number
    assert work.groups == [[0], [1], [2]]


async def test_who_comes_while_transactions_are_under_way_goes_into_the_next_one(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    work = Counted()
    group: GroupCommit[int, int] = GroupCommit(work)
    asked = [asyncio.create_task(group.do(database(sessions), number)) for number in (0, 1)]
    await until(partial(has_begun, work, 1))
    asked.append(asyncio.create_task(group.do(database(sessions), 2)))
    await until(partial(has_begun, work, 2))
    asked += [asyncio.create_task(group.do(database(sessions), number)) for number in (3, 4, 5)]
    await asyncio.sleep(0)
    asked[4].cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(*asked[:4], *asked[5:]) == [0, 2, 4, 6, 10]
    # Who has gone before is not done for nobody.
    assert work.groups == [[0, 1], [2], [3, 5]]


async def test_an_error_goes_to_whom_it_is_about(sessions: async_sessionmaker[AsyncSession]) -> None:
    work = Counted()
    work.gate.set()
    group: GroupCommit[int, int] = GroupCommit(work)
    numbers = (1, 13, 5)
    first, second, third = await asyncio.gather(
        *(group.do(database(sessions), number) for number in numbers), return_exceptions=True
    )
    assert (first, third) == (2, 10)
    assert isinstance(second, Conflict)
    assert work.groups[0] == [1, 13, 5]
    assert sorted(work.groups[1:]) == [[1], [5], [13]]


async def test_who_waits_for_a_lock_in_vain_does_not_keep_the_others(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    class Locking(Counted):
        async def __call__(self, session: AsyncSession, numbers: Sequence[int]) -> list[int]:
            await session.execute(text("SET LOCAL lock_timeout = '200ms'"))
            await session.execute(
                text("SELECT pg_advisory_xact_lock(n) FROM unnest(CAST(:numbers AS integer[])) AS n"),
                {"numbers": list(numbers)},
            )
            return await super().__call__(session, numbers)

    work = Locking()
    work.gate.set()
    group: GroupCommit[int, int] = GroupCommit(work)
    async with sessions.begin() as holder:
        await holder.execute(text("SELECT pg_advisory_xact_lock(2)"))
        found = await asyncio.gather(*(group.do(database(sessions), n) for n in (1, 2, 3)), return_exceptions=True)
    assert (found[0], found[2]) == (2, 6)
    assert isinstance(found[1], DatabaseUnavailable)


async def test_what_was_committed_is_not_done_again(sessions: async_sessionmaker[AsyncSession]) -> None:
    def fail() -> None:
        raise LookupError

    work = Counted()
    work.gate.set()
    group: GroupCommit[int, int] = GroupCommit(work)
    failing = Database(sessions, timedelta(seconds=20), fail)
    found = await asyncio.gather(*(group.do(failing, n) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [LookupError] * 3
    assert work.groups == [[0, 1, 2]]


async def test_nobody_waits_longer_than_the_deadline(sessions: async_sessionmaker[AsyncSession]) -> None:
    work = Counted()
    group: GroupCommit[int, int] = GroupCommit(work)
    under_way = []
    for number in (0, 1):
        under_way.append(asyncio.create_task(group.do(database(sessions), number)))
        await until(partial(has_begun, work, number))
    with pytest.raises(DatabaseUnavailable):
        await group.do(database(sessions, 0.05), 2)
    work.gate.set()
    assert await asyncio.gather(*under_way) == [0, 2]
    assert work.groups == [[0], [1]]


async def test_a_transaction_that_is_cancelled_is_told_to_all_who_wait_for_it(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    class Cancelled(Counted):
        async def __call__(self, _session: AsyncSession, numbers: Sequence[int]) -> list[int]:
            raise asyncio.CancelledError

    group: GroupCommit[int, int] = GroupCommit(Cancelled())
    found = await asyncio.gather(*(group.do(database(sessions), n) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [DatabaseUnavailable] * 3
