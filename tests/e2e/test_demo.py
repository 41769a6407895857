"""`outbox demo`: its own verdict is the test."""

import asyncio
import importlib.util
import json
from asyncio.subprocess import PIPE

import pytest

from tests.command import command, process_environment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("confluent_kafka") is None, reason="needs the packages of requirements-embedded.txt"
)


async def test_each_message_arrives_exactly_once_and_in_order() -> None:
    process = await asyncio.create_subprocess_exec(
        *command("demo", "--json"), env=process_environment(), stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert err == b"", "a demo has nothing to warn of"
    result = json.loads(out)
    assert result["ok"] is True
    assert result["in_order"] is True
    assert result["strangers"] == []
    assert [len(message["out"]) for message in result["messages"]] == [1, 1, 0, 1, 0, 1, 1]


async def test_the_same_for_people() -> None:
    process = await asyncio.create_subprocess_exec(
        *command("demo"), env=process_environment(), stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert "each message arrived exactly once, in order" in out.decode()
