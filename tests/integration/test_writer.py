"""Both doors of the outbox: `add` in Python and `outbox_add` in SQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import migrate, trace
from app.db import in_transaction
from app.errors import InvalidMessage
from app.outbox import OutboxMessage, add, event
from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import added
from tests.waiting import until
from tests.writers import driver, sessions_on

_DEADLINE = timedelta(seconds=20)


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    async with sessions_on(database_url, 4) as result:
        yield result


def message(key: Any = b"key", payload: Any = b"{}", **fields: Any) -> OutboxMessage:
    return OutboxMessage(**({"topic": "t", "key": key, "payload": payload, "type": "test"} | fields))


async def test_both_doors_agree(database_url: str, sessions: async_sessionmaker[AsyncSession]) -> None:
    columns = "SELECT lane, topic, key, outbox_headers(headers), payload, type FROM outbox_messages ORDER BY id"
    texts = {"plain": "key", "empty": "", "beyond ASCII": "ключ ☃", "quotes": """a'b"c\\d"""}
    header = ("ce_source", "/here"), ("x-note", "ü ☃")
    async with connect(database_url) as connection:
        for key in texts.values():
            await connection.fetchval(
                "SELECT outbox_add('t', $1, $2, jsonb_build_object('ce_source', '/here', 'x-note', 'ü ☃'), 'a.b')",
                key,
                f"payload of {key}",
            )
        async with sessions.begin() as session:
            headers = tuple((name, value.encode()) for name, value in header)
            await add(
                session,
                *(
                    message(key.encode(), f"payload of {key}".encode(), type="a.b", headers=headers)
                    for key in texts.values()
                ),
            )
        rows = [tuple(row) for row in await connection.fetch(columns)]
    assert rows[: len(texts)] == rows[len(texts) :]


async def test_ids_of_both_doors_are_uuids_of_version_7_and_of_now(
    database_url: str, sessions: async_sessionmaker[AsyncSession]
) -> None:
    async with connect(database_url) as connection:
        ids = [await connection.fetchval("SELECT outbox_add('t', NULL, 'p')") for _ in range(100)]
        async with sessions.begin() as session:
            own = [message() for _ in range(100)]
            await add(session, *own)
            await session.execute(text("INSERT INTO outbox_messages (topic, type) VALUES ('t', 'plain')"))
        stored = [row[0] for row in await connection.fetch("SELECT message_id FROM outbox_messages ORDER BY id")]
    assert stored[:-1] == ids + [each.message_id for each in own]
    assert len(set(stored)) == 201
    assert {each.version for each in stored} == {7}
    assert {each.variant for each in stored} == {"specified in RFC 4122"}
    now = time.time()
    assert all(abs((each.int >> 80) / 1000 - now) < 60 for each in stored)


async def test_a_message_arrives_as_it_was_added(database_url: str, sessions: async_sessionmaker[AsyncSession]) -> None:
    broker = Broker()
    messages = [
        message(b"\x00\xff", bytes(range(256)), headers=(("x", b"\x00\xff"), ("x", b""), ("", b'"{}\\,'))),
        message(None, None),
        message(b"", b""),
        event(topic="t", key="7", type="thing.happened", source="/here", data=b"{}"),
    ]
    token = trace.current.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    async with sessions.begin() as session:
        await add(session, *messages)
        rows = await added(await driver(session), [each.message_id for each in messages])
    trace.current.reset(token)
    async with engine(database_url, broker):
        await empty(database_url)
    await assess(database_url, broker, rows)
    by_id = {dict(record.headers)["ce_id"]: record for record in broker.records}
    for each in messages:
        record = by_id[str(each.message_id).encode()]
        own = (*each.headers, ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
        assert (record.key, record.value, tuple(record.headers)[4:]) == (each.key, each.payload, own)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"payload": b"x" * 900_001}, "MESSAGE_MAX_BYTES"),
        ({"key": b"x" * 900_001}, "MESSAGE_MAX_BYTES"),
        ({"headers": (("x", b"x" * 900_001),)}, "MESSAGE_MAX_BYTES"),
        ({"topic": "no topic"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"topic": "."}, "topic"),
        ({"topic": ".."}, "topic"),
        ({"topic": "x" * 250}, "topic"),
        ({"topic": "x\n"}, "topic"),
        ({"topic": "тема"}, "topic"),
        ({"type": ""}, "type"),
        ({"type": "x" * 256}, "type"),
    ],
)
async def test_a_message_that_cannot_be_sent_fails_the_business_transaction(
    sessions: async_sessionmaker[AsyncSession], bad: dict[str, Any], says: str
) -> None:
    async with sessions.begin() as session:
        await session.execute(text("CREATE TABLE business (id int)"))

    async def work(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO business VALUES (1)"))
        await add(session, message(), message(**bad))

    with pytest.raises(InvalidMessage, match=says) as raised:
        await in_transaction(sessions, work, deadline=_DEADLINE)
    assert "xxx" not in str(raised.value)
    async with sessions.begin() as session:
        query = "SELECT (SELECT count(*) FROM business) + (SELECT count(*) FROM outbox_messages)"
        assert await session.scalar(text(query)) == 0


async def test_the_limit_is_what_migrate_was_told_last(
    database_url: str, sessions: async_sessionmaker[AsyncSession]
) -> None:
    async def largest(size: int) -> None:
        async with sessions.begin() as session:
            await add(session, message(b"12345", b"x" * (size - 5 - 20)))  # an empty array of headers takes up to 20
        with pytest.raises(InvalidMessage):
            async with sessions.begin() as session:
                await add(session, message(b"12345", b"x" * (size - 5)))

    await largest(900_000)
    await migrate.upgrade(database_url, message_max_bytes=2000)
    await largest(2000)
    await migrate.upgrade(database_url, message_max_bytes=3_000_000)
    await largest(3_000_000)
    async with connect(database_url) as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("SELECT outbox_add('t', 'k', repeat('x', 3000000))")


async def test_a_message_in_the_outbox_is_never_changed(database_url: str) -> None:
    async with connect(database_url) as connection:
        await connection.execute("SELECT outbox_add('t', 'k', 'p')")
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute("UPDATE outbox_messages SET payload = 'q'")
        with pytest.raises(asyncpg.CheckViolationError):  # a key has its lane
            await connection.execute(
                "INSERT INTO outbox_messages (lane, topic, key, type) "
                "SELECT (outbox_bucket('k') + 1) & 31, 't', 'k'::bytea, 't'"
            )


async def test_what_a_savepoint_took_back_is_not_sent_and_its_lock_is_taken_anew(
    database_url: str, sessions: async_sessionmaker[AsyncSession]
) -> None:
    broker = Broker()
    async with connect(database_url) as other, engine(database_url, broker):
        async with sessions.begin() as session:
            undone = await session.begin_nested()
            await add(session, message(payload=b"undone"))
            await undone.rollback()
            await other.execute("SELECT outbox_add('t', 'key', '1')")  # the lock was given back
            await add(session, message(payload=b"2"))
            waiting = asyncio.create_task(other.execute("SELECT outbox_add('t', 'key', '3')"))
            await until(lambda: _blocked(session))
        await waiting
        await empty(database_url)
    assert [record.value for record in broker.records] == [b"1", b"2", b"3"]


async def test_the_order_of_ids_is_the_order_of_commits(sessions: async_sessionmaker[AsyncSession]) -> None:
    """The second writer of a key draws its id only after the first has committed."""
    first, second = message(payload=b"first"), message(payload=b"second")
    other = message(b"another key", b"other")
    async with sessions() as a, sessions() as b:
        await add(a, first)
        (early,) = await added(await driver(a), [first.message_id])
        waiting = asyncio.create_task(add(b, other, second))
        await until(lambda: _blocked(a))
        before = await a.scalar(text("SELECT last_value FROM outbox_messages_id_seq"))
        assert before == early.id, "an id was drawn before all locks were taken"
        await a.commit()
        await waiting
        rows = await added(await driver(b), [other.message_id, second.message_id])
        assert [row.payload for row in rows] == [b"other", b"second"]
        assert early.id < rows[0].id < rows[1].id
        await b.commit()


async def test_messages_of_one_add_keep_their_order(sessions: async_sessionmaker[AsyncSession]) -> None:
    messages = [message(b"key %d" % (number % 7), b"%d" % number) for number in range(500)]
    async with sessions.begin() as session:
        await add(session, *messages)
        rows = await added(await driver(session), [each.message_id for each in messages])
    assert [row.payload for row in rows] == [each.payload for each in messages]


async def test_a_deadlock_between_adds_is_repeated_as_a_whole_transaction(
    database_url: str, sessions: async_sessionmaker[AsyncSession]
) -> None:
    both, tries = asyncio.Barrier(2), 0

    async def work(session: AsyncSession, *keys: bytes) -> None:
        nonlocal tries
        tries += 1
        await add(session, message(keys[0]))
        if tries <= 2:
            await both.wait()
        await add(session, message(keys[1]))

    await asyncio.gather(
        in_transaction(sessions, lambda session: work(session, b"one", b"two"), deadline=_DEADLINE),
        in_transaction(sessions, lambda session: work(session, b"two", b"one"), deadline=_DEADLINE),
    )
    assert tries == 3
    async with connect(database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox_messages") == 4


async def _blocked(session: AsyncSession) -> bool:
    """Does anybody wait for a lock of this session?"""
    return bool(
        await session.scalar(
            text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))")
        )
    )


@pytest.mark.parametrize(
    "headers",
    [
        [b"content-type"],
        [b""],
        [b"a", b"b", b"c"],
        [b"a", None],
        [None],
        [b"\x02"],
        [b"\x03\x02x\x02y"],
        [b"\x42\x02x\x02y"],
        [b"\x02\x01xy"],
        [b"\x00\x02xy"],
        [b"\x44\x02xy"],
        [b"\x4a\x02xy"],
        [b"\x02\x02"],
        [b"\x02\x02x\x02y", b"a", b"b"],
    ],
)
async def test_headers_that_are_none_are_refused(database_url: str, headers: list[bytes | None]) -> None:
    async with connect(database_url) as connection:
        with pytest.raises(asyncpg.CheckViolationError, match="ck_outbox_messages_headers"):
            await connection.execute(
                "INSERT INTO outbox_messages (topic, type, headers) VALUES ('t', 'test', $1)", headers
            )


@pytest.mark.parametrize(
    ("refused_by", "hint", "insert"),
    [
        ("lane", "0 to 31", "(lane, topic, type) VALUES (-1, 'secret', 'secret')"),
        ("lane", "0 to 31", "(lane, topic, type) VALUES (32, 'secret', 'secret')"),
        ("lane", "0 to 31", "(lane, key, topic, type) VALUES (32, 'secret', 'secret', 'secret')"),
        ("key_lane", "outbox_bucket", "(lane, key, topic, type) VALUES (0, 'another lane''s', 'secret', 'secret')"),
        ("topic", "249", "(topic, type) VALUES ('secret secret', 'secret')"),
        ("topic", "249", "(topic, type) VALUES (repeat('secret', 50), 'secret')"),
        ("topic", "249", "(topic, type) VALUES ('', 'secret')"),
        ("topic", "249", "(topic, type) VALUES ('.', 'secret')"),
        ("topic", "249", "(topic, type) VALUES ('..', 'secret')"),
        ("type", "255", "(topic, type) VALUES ('secret', '')"),
        ("type", "255", "(topic, type) VALUES ('secret', repeat('secret', 50))"),
        ("headers", "by turns", "(topic, type, headers) VALUES ('secret', 'secret', '{secret}')"),
        ("size", "900000 bytes", "(topic, type, payload) VALUES ('secret', 'secret', repeat('secret', 150000)::bytea)"),
    ],
)
async def test_plain_sql_is_told_what_is_wrong_but_not_the_row(
    database_url: str, refused_by: str, hint: str, insert: str
) -> None:
    async with connect(database_url) as connection:
        with pytest.raises(asyncpg.CheckViolationError) as raised:
            await connection.execute("INSERT INTO outbox_messages " + insert)
    error = raised.value
    assert (error.table_name, error.constraint_name) == ("outbox_messages", f"ck_outbox_messages_{refused_by}")
    assert hint in error.hint
    assert not any("secret" in str(value) or b"secret".hex() in str(value) for value in error.as_dict().values())


async def test_the_longest_names_are_taken(database_url: str) -> None:
    async with connect(database_url) as connection:
        for topic, type_ in ("x" * 249, "ü" * 255), ("...", "t"), ("-_.A1", "t"):
            await connection.fetchval("SELECT outbox_add($1, $2::bytea, NULL, NULL, $3)", topic, b"", type_)


@pytest.mark.parametrize("number", [0, 1, 2, 32, 33, 100])
async def test_whichever_way_headers_are_stored_sql_reads_them(
    database_url: str, sessions: async_sessionmaker[AsyncSession], number: int
) -> None:
    sizes = [0, 1, 63, 64, 8191, 8192]
    headers = tuple((f"имя-{n}" * n, bytes([n]) * sizes[n % len(sizes)]) for n in range(number))
    async with sessions.begin() as session:
        await add(session, message(headers=headers))
    async with connect(database_url) as connection:
        parts, listed = await connection.fetchrow("SELECT headers, outbox_headers(headers) FROM outbox_messages")
    assert len(parts) == (1 if 0 < number <= 32 else 2 * number)
    assert listed == [part for name, value in headers for part in (name.encode(), value)]
