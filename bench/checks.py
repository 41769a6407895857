"""What the checks of a message cost its writer: as they were, as they are, and without (docs/decisions/0013)."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from app import migrate
from bench.options import Options
from bench.results import Found, Table
from bench.services import Services

_ROWS = 2_000
_BULK = 20_000

_COLUMNS = "(lane, topic, key, headers, payload, type)"
_ROW = "outbox_bucket('key') & 31, 'applications.events', 'key', '{a,b}'::bytea[], repeat('x', 300)::bytea, 'bench'"
_ONE = "INSERT INTO outbox_messages {columns} VALUES ({row})"
_MANY = "INSERT INTO outbox_messages {columns} SELECT {row} FROM generate_series(1, {count})"
_CALL = "PERFORM outbox_add('applications.events', 'key', repeat('x', 300))"
_LOOP = "DO $$ BEGIN FOR i IN 1..{count} LOOP {statement}; END LOOP; END $$"
_COMMITTED = "DO $$ BEGIN FOR i IN 1..{count} LOOP {statement}; COMMIT; END LOOP; END $$"
_STATEMENTS = {
    f"µs, each of {_ROWS:,} INSERTs": (_ROWS, _LOOP.replace("{statement}", _ONE)),
    f"µs a row, INSERT of {_BULK:,}": (_BULK, _MANY),
    "µs, outbox_add": (_ROWS, _LOOP.replace("{statement}", _CALL)),
    "µs, outbox_add and COMMIT": (_ROWS, _COMMITTED.replace("{statement}", _CALL)),
}
_DROP = "ALTER TABLE outbox_messages DROP CONSTRAINT ck_outbox_messages_message"
_ADD = """
    ALTER TABLE outbox_messages ADD CONSTRAINT ck_outbox_messages_message
    CHECK (outbox_check_message(lane, topic, key, headers, payload, type)) NOT VALID
"""


async def run(services: Services, options: Options) -> list[Table]:
    url = services.database_url
    ways: dict[str, AbstractAsyncContextManager[None]] = {}
    found = Found()
    for _ in range(options.rounds):
        ways = {
            "a constraint each": _at(url, "engine_0006"),
            "one for all": _at(url, "engine_0007"),
            "all in one expression": nullcontext(),
            "none": _unchecked(services),
        }
        for way, arranged in ways.items():
            async with arranged, services.database() as connection:
                await connection.execute("SET synchronous_commit = off")  # what the disk costs is not the question
                for column, (count, statement) in _STATEMENTS.items():
                    await connection.execute("TRUNCATE outbox_messages")
                    started = time.monotonic()
                    await connection.execute(_filled(statement, count))
                    found[way][column].append((time.monotonic() - started) / count * 1e6)
                await connection.execute("TRUNCATE outbox_messages")
    rows = found.rows()
    return [Table("decisions: checks", "Writing a message of 300 bytes on the server: how it is checked", rows)]


def _filled(statement: str, count: int) -> str:
    return statement.replace("{columns}", _COLUMNS).replace("{row}", _ROW).replace("{count}", str(count))


@asynccontextmanager
async def _at(database_url: str, revision: str) -> AsyncIterator[None]:
    await migrate.downgrade(database_url, revision)
    try:
        yield
    finally:
        await migrate.upgrade(database_url)


@asynccontextmanager
async def _unchecked(services: Services) -> AsyncIterator[None]:
    async with services.database() as connection:
        await connection.execute(_DROP)
        try:
            yield
        finally:
            await connection.execute(_ADD)
