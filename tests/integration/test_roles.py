"""Each role can do its work, and nothing else: logins of each try both."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from app import migrate
from app.db import Base
from app.outbox.roles import APP, INGEST, OPERATORS, RELAY, ROLES, statements
from relay import housekeeping
from tests.api import api_on
from tests.engine import Broker, connect, empty, engine, settings
from tests.services.fixtures import PrivatePostgres
from tests.waiting import until

Logins = Callable[[str], str]


@pytest.fixture(scope="module")
def tables() -> list[str]:
    return sorted(Base.metadata.tables)


@pytest.fixture
async def owner(private_postgres: PrivatePostgres) -> str:
    """Address of a migrated database on a server of its own, for roles belong to the whole server."""
    server = await private_postgres()
    return await server.create_database(migrated=True)


@pytest.fixture
async def login(owner: str, tables: list[str]) -> Logins:
    """Addresses at which members of the roles log in."""
    async with connect(owner) as connection:
        for _ in range(2):  # safe to repeat
            async with connection.transaction():
                for statement in statements(tables):
                    await connection.execute(statement)
        for role in ROLES:
            await connection.execute(f"CREATE ROLE login_{role} LOGIN PASSWORD 'secret' IN ROLE {role}")
        # What the server's administrator has put there for everybody.
        await connection.execute("SELECT outbox_roll_receipts('7 days')")
    return lambda role: (
        make_url(owner).set(username=f"login_{role}", password="secret").render_as_string(hide_password=False)
    )


FORBIDDEN = {
    APP: [
        "SELECT payload FROM outbox_messages",
        "DELETE FROM outbox_messages",
        "UPDATE outbox_messages SET payload = ''",
        "TRUNCATE outbox_messages",
        "UPDATE outbox_lanes SET floor = 1000000",
        "INSERT INTO outbox_topics (topic) VALUES ('x')",
        "SELECT * FROM outbox_dead_letters",
        "SELECT * FROM outbox_receipts",
        "SELECT fingerprints FROM outbox_receipt_batches",
        "DELETE FROM applications",
        "SELECT outbox_roll_receipts('1 second')",
        "SELECT outbox_limit_messages(1)",
        "CREATE TABLE mine (id bigint)",
        "DROP TABLE applications",
    ],
    RELAY: [
        "INSERT INTO outbox_messages (topic, type) VALUES ('t', 't')",
        "UPDATE outbox_messages SET payload = ''",
        "SELECT * FROM applications",
        "DELETE FROM outbox_receipt_batches",
        "UPDATE outbox_receipt_batches SET partition = 0",
        "DELETE FROM outbox_lanes",
        "DELETE FROM outbox_topics",
        "SELECT outbox_limit_messages(1)",
        "CREATE TABLE mine (id bigint)",
    ],
    INGEST: [
        "SELECT payload FROM outbox_messages",
        "DELETE FROM outbox_messages",
        "DELETE FROM applications",
        "UPDATE outbox_lanes SET floor = 1000000",
        "CREATE TABLE mine (id bigint)",
    ],
    OPERATORS: [
        "SELECT payload FROM outbox_messages",
        "SELECT headers FROM outbox_parked",
        "SELECT payload FROM outbox_dead_letters",
        "SELECT * FROM applications",
        "SELECT outbox_add('t', 'k', 'v')",
        "DELETE FROM outbox_messages",
        "UPDATE outbox_topics SET paused_at = now()",
        "UPDATE outbox_dead_letters SET state = 'retried'",
        "SELECT outbox_roll_receipts('1 second')",
        "CREATE TABLE mine (id bigint)",
    ],
}


async def test_what_a_role_has_no_business_with_is_refused(login: Logins) -> None:
    allowed = []
    for role, forbidden in FORBIDDEN.items():
        async with connect(login(role)) as connection:
            for statement in forbidden:
                try:
                    await connection.execute(statement)
                except asyncpg.InsufficientPrivilegeError:
                    continue
                allowed.append(f"{role}: {statement}")
    assert allowed == []


async def test_the_api_works_as_its_role(login: Logins, owner: str) -> None:
    async with api_on(login(APP)) as api:
        assert (await api.apply()).status_code == 201
        assert (await api.client.get("/applications")).json()["total"] == 1
        assert (await api.client.get("/readyz")).status_code == 200
        assert (await api.client.get(f"/messages/{uuid4()}")).status_code == 404
    async with connect(owner) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox_messages") == 1


@pytest.mark.parametrize("role", [APP, INGEST])
async def test_whoever_writes_adds_messages_in_plain_sql(login: Logins, role: str) -> None:
    async with connect(login(role)) as connection:
        assert await connection.fetchval("SELECT outbox_add('t', 'key', 'payload')")


async def test_the_relay_works_as_its_role(login: Logins, owner: str) -> None:
    broker = Broker()
    broker.poison.add(b"poison")
    async with connect(owner) as connection:
        for payload in ("poison", "follower", "another"):
            await connection.execute("SELECT outbox_add('t', $1, $2)", "key", payload)
        await connection.execute("SELECT outbox_add('closed', 'key', 'payload')")
        broker.unavailable.add("closed")
        async with engine(login(RELAY), broker):

            async def all_recorded() -> bool:
                row = await connection.fetchrow(
                    "SELECT (SELECT count(*) FROM outbox_dead_letters), "
                    "(SELECT count(*) FROM outbox_parked WHERE behind IS NOT NULL), "
                    "(SELECT count(*) FROM outbox_topics WHERE closed_at IS NOT NULL)"
                )
                return tuple(row) == (1, 2, 1)

            await until(all_recorded)
            broker.unavailable.clear()
            await connection.execute(
                "UPDATE outbox_dead_letters SET state = 'discarded', decided_at = now(), decided_by = 'test', "
                "decision_reason = 'test', returning_at = clock_timestamp()"
            )
            await empty(owner)
        assert await connection.fetchval("SELECT count(*) FROM outbox_receipts") == 3


# How a relay settled before receipts of a batch were one row.
_OLD_SETTLE = """
    WITH named AS MATERIALIZED (
        SELECT * FROM unnest(
            $1::text::smallint[], $2::text::bigint[], $3::text::integer[], $4::text::bigint[], $5::text::bigint[]
        ) AS n (lane, id, partition, "offset", fingerprint)
    ), gone AS (
        DELETE FROM outbox_messages WHERE lane = ANY (ARRAY(SELECT DISTINCT lane FROM named))
        AND id = ANY (ARRAY(SELECT id FROM named)) AND ((lane, id) IN (SELECT lane, id FROM named)) IS TRUE
        RETURNING lane, id, message_id, topic, created_at
    )
    INSERT INTO outbox_receipts (message_id, topic, partition, "offset", created_at, delivered_at, fingerprint, id)
    SELECT message_id, topic, partition, "offset", created_at, (SELECT clock_timestamp()), fingerprint, id
    FROM gone FULL JOIN named USING (lane, id) WHERE coalesce(message_id IS NOT NULL, false)
"""
_RECEIPTS = (
    'SELECT message_id, topic, partition, "offset", created_at, fingerprint, id FROM outbox_receipts ORDER BY id'
)


async def test_a_relay_of_the_release_before_settles_as_its_role(login: Logins, owner: str) -> None:
    async with connect(owner) as connection, connect(login(RELAY)) as relay:
        for n in range(3):
            await connection.execute("SELECT outbox_add('t', 'key', $1)", str(n))
        owed = await connection.fetch("SELECT message_id, created_at, lane, id FROM outbox_messages ORDER BY id")
        columns = [[row[2] for row in owed], [row[3] for row in owed], [0, 0, 0], [7, 8, 9], [-1, 0, 1]]
        status = await relay.execute(_OLD_SETTLE, *(f"{{{str(column)[1:-1]}}}" for column in columns))
        assert status == "INSERT 0 3", "it compares this with what was confirmed"
        assert [tuple(row) for row in await connection.fetch(_RECEIPTS)] == [
            (message_id, "t", 0, 7 + n, created_at, n - 1, number)
            for n, (message_id, created_at, _, number) in enumerate(owed)
        ]
        assert await connection.fetchval("SELECT count(DISTINCT delivered_at) FROM outbox_receipts") == 1


async def test_roles_keep_their_rights_when_receipts_move(login: Logins, owner: str) -> None:
    """Between `outbox migrate` and `outbox roles` relays go on."""
    one = "INSERT INTO outbox_receipts SELECT gen_random_uuid(), 't', 0, 0, now(), now(), 0, 1"
    look = 'SELECT count(*) FROM (SELECT message_id, "offset" FROM outbox_receipts) AS r'
    async with connect(login(RELAY)) as relay, connect(login(APP)) as app, connect(login(OPERATORS)) as operator:
        for move in (partial(migrate.downgrade, owner, "engine_0004"), partial(migrate.upgrade, owner)):
            await move()
            await relay.execute(one)
            assert await app.fetchval(look) == await operator.fetchval(look) > 0
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute("SELECT fingerprint FROM outbox_receipts")
        await relay.execute("INSERT INTO outbox_receipt_batches SELECT * FROM outbox_receipt_batches LIMIT 1")


async def test_the_relays_housekeeping_works_as_its_role_and_ends_frozen_sessions_of_its_own(
    login: Logins, owner: str
) -> None:
    hurried = settings(
        login(RELAY),
        publish_deadline=0.3,
        kafka_request_timeout=0.2,
        relay_idle_timeout=8,
        relay_transaction_limit=9,
        relay_watch_interval=0.1,
    )
    stop = asyncio.Event()
    # Like a slot in the middle of a publish that never ends; the server would not end this session.
    async with connect(login(RELAY), application_name="outbox-relay") as frozen:
        await frozen.execute("BEGIN; SELECT * FROM outbox_lanes WHERE lane = 1 FOR UPDATE")
        keeping = asyncio.create_task(housekeeping.run(hurried, stop))

        async def ended() -> bool:
            assert not keeping.done() or keeping.exception() is None
            return bool(frozen.is_closed())

        await until(ended, timedelta(seconds=40))
        stop.set()
        await keeping


async def test_an_operator_sees_everything_but_contents_as_their_role(login: Logins, owner: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.outbox.dead_letters import list_dead_letters
    from app.outbox.status import read_status
    from tests.writers import sessions_on

    async with connect(owner) as connection:
        await connection.execute("SELECT outbox_add('t', 'key', 'payload')")
        async with sessions_on(login(OPERATORS), 1) as sessions, connection.transaction():
            await connection.execute("SELECT pg_current_xact_id()")

            async def old() -> bool:
                session: AsyncSession
                async with sessions() as session:
                    now = await read_status(session, relay_application="outbox-relay")
                return now.owed == 1 and now.oldest_transaction > timedelta(0)

            await until(old)
            async with sessions() as session:
                assert await list_dead_letters(session, limit=1) == []
