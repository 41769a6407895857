"""The commands of operators, on a database: what they print, and how they end."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE
from typing import Any

import pytest
from sqlalchemy import make_url
from typer.testing import Result

from tests.command import command, outbox_aside, process_environment
from tests.engine import Broker, connect, empty, engine
from tests.services.postgres_server import dsn
from tests.waiting import until


class Operator:
    """Gives commands on one database."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url

    async def does(self, *arguments: object) -> Result:
        return await outbox_aside(*arguments, DATABASE_URL=self.database_url)

    async def reads(self, *arguments: object) -> Any:
        result = await self.does(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def operator(database_url: str) -> Operator:
    return Operator(dsn(database_url))


async def _bury(database_url: str, broker: Broker) -> None:
    """A dead letter with the key `ключ`, and one message behind it."""
    broker.poison.add(b"secret contents")
    async with connect(database_url) as connection:
        for payload in ("secret contents", "follower"):
            await connection.execute("SELECT outbox_add('t', 'ключ', $1, '{\"ce_source\": \"/test\"}')", payload)
        async with engine(database_url, broker):

            async def parked() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM outbox_parked WHERE behind IS NOT NULL"))

            await until(parked)


async def test_a_dead_letter_from_seeing_it_to_its_delivery(database_url: str, operator: Operator) -> None:
    broker = Broker()
    await _bury(database_url, broker)
    (letter,) = await operator.reads("dead-letters", "list", "--topic", "t", "--state", "dead")
    assert (letter["key"], letter["reason"], letter["followers"]) == ("ключ", "MESSAGE_TOO_LARGE", 1)
    table = (await operator.does("dead-letters", "list")).stdout
    assert letter["message_id"] in table
    assert "ключ" in table
    assert await operator.reads("dead-letters", "list", "--topic", "another") == []

    message_id = letter["message_id"]
    shown = await operator.does("dead-letters", "show", message_id)
    assert shown.exit_code == 0
    assert "secret" not in shown.output + table, "contents are shown on request only"
    assert (
        "payload            secret contents"
        in (await operator.does("dead-letters", "show", message_id, "--payload")).stdout
    )
    whole = await operator.reads("dead-letters", "show", message_id, "--payload")
    assert (whole["headers"], whole["payload_base64"]) == ([["ce_source", "/test"]], "c2VjcmV0IGNvbnRlbnRz")

    dry = await operator.reads("dead-letters", "retry", "--all", "--dry-run")
    assert dry == {"retried": False, "dead_letters": [{"message_id": message_id, "topic": "t"}]}
    assert (await operator.reads("dead-letters", "list"))[0]["state"] == "dead"
    broker.poison.clear()
    retried = await operator.does("dead-letters", "retry", "--topic", "t", "--by", "ann", "--reason", "limit raised")
    assert (retried.exit_code, retried.stdout) == (0, f"{message_id} t\n1 retried\n")
    async with engine(database_url, broker):
        await empty(database_url)
    (letter,) = await operator.reads("dead-letters", "list", "--state", "retried")
    assert (letter["decided_by"], letter["decision_reason"]) == ("ann", "limit raised")

    again = await operator.does("dead-letters", "discard", message_id, "--reason", "why not")
    assert (again.exit_code, again.stderr) == (1, f"error: dead letter {message_id} is already retried\n")


async def test_a_discarded_letter_says_who_and_why(database_url: str, operator: Operator) -> None:
    broker = Broker()
    await _bury(database_url, broker)
    (letter,) = await operator.reads("dead-letters", "list")
    result = await operator.does("dead-letters", "discard", letter["message_id"], "--reason", " test data ")
    assert result.exit_code == 0
    (letter,) = await operator.reads("dead-letters", "list", "--state", "discarded")
    assert letter["decision_reason"] == "test data"
    assert letter["decided_by"]
    unknown = await operator.does("dead-letters", "show", "00000000-0000-7000-8000-000000000000")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)


async def test_a_topic_is_paused_listed_and_resumed(operator: Operator) -> None:
    assert (await operator.does("topics", "pause", "t", "--reason", "a [test]", "--by", "ann")).exit_code == 0
    listed = {topic["topic"]: topic for topic in await operator.reads("topics", "list")}
    assert listed.keys() == {"applications.events", "t"}
    assert (listed["t"]["state"], listed["t"]["by"], listed["t"]["reason"]) == ("paused", "ann", "a [test]")
    assert "a [test] (ann)" in (await operator.does("topics", "list")).stdout
    assert "paused" in (await operator.does("status")).stdout
    assert (await operator.does("topics", "resume", "t")).stdout == "t: open again\n"
    assert (await operator.does("topics", "resume", "t")).stdout == "t: was open\n"
    for policy in ("continue", "park"):
        assert (await operator.does("topics", "policy", "t", policy)).exit_code == 0
        listed = {topic["topic"]: topic for topic in await operator.reads("topics", "list")}
        assert listed["t"]["on_dead_letter"] == policy


async def test_the_status_for_programs_and_for_people(database_url: str, operator: Operator) -> None:
    async with connect(database_url) as connection:
        await connection.execute("SELECT outbox_add('t', 'key', 'payload')")
    now = await operator.reads("status")
    assert (now["owed"], now["parked"], now["dead_letters"], now["slots_connected"]) == (1, 0, 0, 0)
    assert now["oldest_owed_seconds"] > 0
    people = (await operator.does("status")).stdout
    assert "owed               1, the oldest for " in people
    assert "no relay is running" in people


async def test_the_watch_goes_on_while_the_database_is_away_and_ends_with_ctrl_c(
    database_url: str, operator: Operator
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("status", "--watch", "--json", "--interval", "0.1"),
        env=process_environment(DATABASE_URL=operator.database_url),
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None

    async def next_with(name: str) -> None:
        assert process.stdout is not None
        while name not in json.loads(line := await process.stdout.readline()):
            assert line

    async with asyncio.timeout(60):
        await next_with("owed")
        name = make_url(database_url).database
        admin = make_url(database_url).set(database="postgres").render_as_string(hide_password=False)
        async with connect(admin) as connection:
            await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await next_with("error")
            await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await next_with("owed")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_migrate_says_where_the_database_stands(empty_database_url: str) -> None:
    operator = Operator(dsn(empty_database_url))
    not_yet = await operator.does("status")
    assert (not_yet.exit_code, not_yet.stderr.count("\n")) == (1, 1)
    assert "run `outbox migrate`" in not_yet.stderr
    assert await operator.reads("migrate", "--engine-only") == {"revisions": ["engine_0001"]}
    assert (await operator.does("status")).exit_code == 0
    assert (await operator.does("migrate")).stdout == "the database is at app_0001, engine_0001\n"


async def test_a_login_that_is_refused_and_a_missing_database_are_the_settings_matter(database_url: str) -> None:
    url = make_url(dsn(database_url))
    missing = Operator(url.set(database="not_there").render_as_string(hide_password=False))
    for arguments in (["status"], ["migrate", "--timeout", "0"]):
        result = await missing.does(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "there is no such database" in result.stderr
    async with connect(database_url) as connection:
        name = f"nobody_{os.getpid()}"
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
        try:
            stranger = Operator(url.set(username=name, password="right").render_as_string(hide_password=False))
            result = await stranger.does("status")
            assert result.exit_code == 1
            assert "this login may not do that (42501)" in result.stderr
            wrong = Operator(url.set(username=name, password="wrong").render_as_string(hide_password=False))
            result = await wrong.does("status")
            assert result.exit_code == 2
            assert "refuses the login" in result.stderr
            assert "wrong" not in result.stderr.partition("refuses")[0]
        finally:
            await connection.execute(f"DROP ROLE {name}")
