"""The engine in somebody else's database: a foreign table, a foreign alembic, plain psql."""

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app import migrate
from app.errors import SchemaError
from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import added
from tests.services.postgres_server import PostgresServer

_THEIRS = """
    CREATE TABLE orders (id integer PRIMARY KEY, note text NOT NULL);
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('theirs');
"""
_ORDER = """
    BEGIN;
    INSERT INTO orders VALUES (1, 'it''s mine');
    SELECT outbox_add('orders', '1', '{"id": 1}', '{"content-type": "application/json"}', 'order.placed');
    SELECT outbox_add('orders', '1', NULL);
    COMMIT;
    BEGIN;
    INSERT INTO orders VALUES (2, 'not wanted');
    SELECT outbox_add('orders', '2', '{"id": 2}');
    ROLLBACK;
"""
# A trigger is a service too.
_TRIGGER = """
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM outbox_add('orders', NEW.id::text, to_json(NEW)::text, '{}', 'order.changed');
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell();
    INSERT INTO orders VALUES (3, 'by trigger');
"""


async def test_psql_and_a_foreign_table(postgres: PostgresServer, empty_database_url: str) -> None:
    url, broker = empty_database_url, Broker()
    await postgres.psql(_THEIRS, url)
    await migrate.upgrade(url, engine_only=True)
    ids = (await postgres.psql(_ORDER, url)).split("\n")
    await postgres.psql(_TRIGGER, url)
    assert len(ids) == 3  # the third was rolled back
    async with connect(url) as connection:
        own = await connection.fetch("SELECT message_id FROM outbox_messages")
        messages = await added(connection, [row[0] for row in own])
        assert [str(message.message_id) for message in messages[:2]] == ids[:2]
        assert ids[2] not in {str(message.message_id) for message in messages}
        assert await connection.fetch("SELECT version_num FROM alembic_version") == [("theirs",)]
        tables = {
            row[0] for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        }
        ours = ("outbox_", "inbox_", "idempotency_")
        assert {name for name in tables if not name.startswith(ours)} == {"orders", "alembic_version"}
    async with engine(url, broker):
        await empty(url)
    await assess(url, broker, messages)
    assert [(record.key, record.value) for record in broker.records if record.key == b"1"] == [
        (b"1", b'{"id": 1}'),
        (b"1", None),
    ]
    (record,) = [record for record in broker.records if record.key == b"3"]
    headers = dict(record.headers)
    assert record.value == b'{"id":3,"note":"by trigger"}'
    assert headers["ce_type"] == b"order.changed"
    assert headers["ce_source"].startswith(b"/test_")


async def test_the_rest_can_come_later_and_going_leaves_theirs_alone(
    postgres: PostgresServer, empty_database_url: str
) -> None:
    url = empty_database_url
    await postgres.psql(_THEIRS, url)
    await migrate.upgrade(url, engine_only=True)
    await postgres.psql(_ORDER, url)
    await migrate.upgrade(url)
    assert await postgres.psql("SELECT count(*) FROM outbox_messages", url) == "2"
    await migrate.downgrade(url)
    tables = await postgres.psql("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", url)
    assert tables.split() == ["alembic_version", "orders", "outbox_alembic_version"]


async def test_the_engine_in_a_schema_of_its_own_is_called_with_any_search_path(
    postgres: PostgresServer, empty_database_url: str
) -> None:
    url = empty_database_url
    name = url.rpartition("/")[2]
    await postgres.psql(
        f"""CREATE SCHEMA "Their outbox"; ALTER DATABASE {name} SET search_path = "Their outbox" """, url
    )
    await migrate.upgrade(url, engine_only=True)
    async with connect(url) as connection:
        await connection.execute("SET search_path = ''")
        add = """SELECT "Their outbox".outbox_add($1, '1'::text, '{}')"""
        added = await connection.fetchval(add, "orders")
        assert await connection.fetchval('SELECT message_id FROM "Their outbox".outbox_messages') == added
        insert = """INSERT INTO "Their outbox".outbox_messages (topic, type) VALUES ($1, 'order')"""
        for statement in add, insert:
            with pytest.raises(asyncpg.CheckViolationError, match="ck_outbox_messages_topic"):
                await connection.execute(statement, "no topic")


@pytest.mark.parametrize("headers", ["[]", '"text"', "1"])
async def test_headers_must_be_an_object(postgres: PostgresServer, database_url: str, headers: str) -> None:
    statement = f"SELECT outbox_add('t', 'k', 'p', '{headers}')"
    with pytest.raises(AssertionError, match="headers must be a JSON object"):
        await postgres.psql(statement, database_url)


async def test_a_database_with_the_engine_only_is_not_at_the_newest_schema_of_the_app(
    postgres: PostgresServer, empty_database_url: str
) -> None:
    await migrate.upgrade(empty_database_url, engine_only=True)
    database = create_async_engine(empty_database_url)
    async with database.connect() as connection:
        await migrate.check(connection, engine_only=True)
        with pytest.raises(SchemaError):
            await migrate.check(connection)
    await database.dispose()
