"""`outbox verify`: what it prints, and how it ends."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import make_url
from typer.testing import Result

from app.outbox.roles import OPERATORS, statements
from tests.auditing import Scene, scene_on
from tests.command import outbox_aside
from tests.engine import connect
from tests.services.fixtures import PrivatePostgres
from tests.services.kafka import Kafka
from tests.services.postgres_server import dsn


@pytest.fixture
async def scene(database_url: str, kafka: Kafka) -> AsyncIterator[Scene]:
    async with scene_on(database_url, kafka) as scene:
        yield scene


async def _verify(scene: Scene, *arguments: object, **environment: str) -> Result:
    assert scene.settings.database_url is not None
    services = {
        "DATABASE_URL": dsn(scene.settings.database_url.get_secret_value()),
        "KAFKA_BOOTSTRAP_SERVERS": scene.kafka.bootstrap_servers,
        "KAFKA_CHECK_CRCS": str(scene.kafka.real),
    }
    return await outbox_aside("verify", *arguments, **services | environment)


async def _read(scene: Scene, *arguments: object) -> Any:
    return json.loads((await _verify(scene, "--no-inbox", "--json", *arguments)).stdout)


async def test_a_system_that_kept_its_promise(scene: Scene) -> None:
    await scene.ledger.fill(scene.topic, messages=50)
    await scene.deliver()
    result = await _verify(scene, "--no-inbox")
    assert result.exit_code == 0, result.output
    assert scene.topic in result.stdout
    assert result.stdout.endswith("as promised\n")
    assert "NOT" not in result.stdout
    document = await _read(scene)
    assert document["ok"] is True
    assert document["findings"] == []
    assert document["topics"][0]["records"] == 50


async def test_damage_is_shown_by_ids_and_places_and_never_by_contents(scene: Scene) -> None:
    (message,) = await scene.add((b"secret key", b"secret payload"))
    partition, offset = await scene.produce(message, payload=b"another secret")
    await scene.settle(message, (partition, offset))
    await scene.send(scene.topic, b"secret key", b"secret", [("ce_specversion", b"1.0"), ("ce_id", b"secret id")])
    result = await _verify(scene, "--no-inbox")
    assert result.exit_code == 1
    assert result.stdout.endswith("NOT as promised\n")
    assert str(message.message_id) in result.stdout
    assert "altered" in result.stdout
    assert "secret" not in result.output
    document = await _read(scene)
    assert document["ok"] is False
    (finding,) = document["findings"]
    assert (finding["kind"], finding["count"], finding["violation"]) == ("altered", 1, True)
    assert finding["examples"] == [
        {
            "message_id": str(message.message_id),
            "topic": scene.topic,
            "partition": partition,
            "offset": offset,
            "detail": "",
        }
    ]
    assert "secret" not in json.dumps(document)


async def test_repeats_are_allowed_unless_one_is_strict(scene: Scene) -> None:
    (message,) = await scene.add((b"key", b"payload"))
    await scene.deliver()
    await scene.produce(message)
    assert [
        (await _verify(scene, "--no-inbox", *options)).exit_code
        for options in ((), ("--strict",), ("--max-repeats", 1), ("--max-repeats", 0))
    ] == [0, 1, 0, 1]


async def test_only_what_was_asked_for(scene: Scene) -> None:
    other = await scene.kafka.create_topic()
    await scene.add((None, b"1"))
    await scene.add((None, b"2"), topic=other)
    await scene.deliver()
    assert {each["topic"] for each in (await _read(scene))["topics"]} == {scene.topic, other}
    assert [each["topic"] for each in (await _read(scene, "--topic", other))["topics"]] == [other]
    before = f"{datetime.now(UTC) - timedelta(minutes=5):%Y-%m-%dT%H:%M:%S}"
    after = f"{datetime.now(UTC) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%S}"
    for options, records in (
        (("--since", before), 2),
        (("--since", after), 0),
        (("--until", before), 0),
        (("--since", before, "--until", after), 2),
        (("--from-offset", 1), 0),
        (("--to-offset", 1), 2),
    ):
        assert sum(each["records"] for each in (await _read(scene, *options))["topics"]) == records, options


async def test_wrong_usage(scene: Scene) -> None:
    for arguments in (
        ("--topic", "no-such-topic"),
        ("--since", "yesterday"),
        ("--since", "2026-01-02", "--until", "2026-01-01"),
        ("--from-offset", 5, "--to-offset", 5),
        ("--strict", "--max-repeats", 3),
        ("--examples", -1),
    ):
        result = await _verify(scene, "--no-inbox", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
    result = await _verify(scene, RECEIPTS="false")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


async def test_services_that_are_not_there_are_one_line(scene: Scene, empty_database_url: str) -> None:
    for environment in (
        {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"},
        {"DATABASE_URL": dsn(empty_database_url)},
    ):
        result = await _verify(scene, **environment)
        assert result.exit_code == 1, result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert errors == [result.stderr.splitlines()[-1]]


async def test_an_operator_may_verify(private_postgres: PrivatePostgres, kafka: Kafka) -> None:
    server = await private_postgres()
    owner = await server.create_database(migrated=True)
    async with connect(owner) as connection:
        for statement in statements([]):
            await connection.execute(statement)
        await connection.execute(f"CREATE ROLE watcher LOGIN PASSWORD 'secret' IN ROLE {OPERATORS}")
    async with scene_on(owner, kafka) as scene:
        requests = await kafka.create_topic(partitions=1)
        await scene.ledger.fill(scene.topic, messages=20)
        await scene.deliver()
        (known, forged) = await scene.add((b"1", b"owed"), (b"2", b"forged"))
        await scene.connection.execute("DELETE FROM outbox_messages WHERE message_id = $1", forged.message_id)
        for message in (known, forged):
            await scene.produce(message)
        login = make_url(dsn(owner)).set(username="watcher", password="secret").render_as_string(hide_password=False)
        result = await _verify(scene, "--json", DATABASE_URL=login, USERS_REQUESTS_TOPIC=requests)
        assert result.exit_code == 1, result.output
        assert [finding["kind"] for finding in json.loads(result.stdout)["findings"]] == ["invented"]
