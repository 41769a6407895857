"""Bad input, one file a case (`tests/corpus`), against the API as it is served: refused in its class, not repeated, and
nobody else notices.
"""

import asyncio
import re
import time
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.api_process import ApiProcess, api_process
from tests.services.postgres_server import PostgresServer

_CORPUS = Path(__file__).parent.parent / "corpus"
_CANARY = b"canary-7f3a"
_LAG = 0.25  # seconds
_TRIES = 4
"""The machine may be busy with something else; a loop that is really blocked is blocked each time."""
_DEADLINE = 30.0
_GOOD = b'{"user_name": "Anna", "description": "d"}'


@dataclass(frozen=True)
class _Case:
    kind: str
    name: str
    expect: list[int | str]
    data: bytes
    shut: bool
    """Close our half of the connection after the request."""
    wait: bool
    """Wait for an answer; without it, only the others are looked at."""


def _cases() -> list[Any]:
    found = []
    for path in sorted(_CORPUS.glob("*/*.toml")):
        if path.parent.name not in ("json", "http"):
            continue
        case = tomllib.loads(path.read_text(encoding="utf-8"))
        parts = [
            (part["text"].encode() if "text" in part else bytes.fromhex(part["hex"])) * part.get("times", 1)
            for part in case["part"]
        ]
        name = f"{path.parent.name}/{path.stem}"
        value = _Case(
            path.parent.name, name, case["expect"], b"".join(parts), case.get("shut", False), case.get("wait", True)
        )
        found.append(pytest.param(value, id=name))
    return found


@pytest.fixture(scope="module")
async def api(postgres: PostgresServer, template_database: str) -> AsyncIterator[ApiProcess]:
    url = await postgres.create_database(template_database)
    async with api_process(url) as process:
        yield process
    await postgres.drop_database(url)


def _post(body: bytes) -> bytes:
    headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"POST /applications HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body


async def _longest_wait(api: ApiProcess, over: asyncio.Event) -> float:
    """How long somebody else waits for an answer, while `over` is not set, and once after it."""
    longest = 0.0
    while True:
        last = over.is_set()
        started = time.monotonic()
        assert await api.alive()
        longest = max(longest, time.monotonic() - started)
        if last:
            return longest


async def _send(api: ApiProcess, case: _Case) -> bytes:
    request = _post(case.data) if case.kind == "json" else case.data
    if case.wait:
        async with asyncio.timeout(_DEADLINE):
            return await api.raw(request, shut=case.shut)
    reader, writer = await asyncio.open_connection(api.host, api.port)
    writer.write(request)
    await writer.drain()
    assert await api.alive()
    writer.close()
    await writer.wait_closed()
    return await reader.read()


@pytest.mark.parametrize("case", _cases())
async def test_is_refused_in_its_class_and_nobody_notices(api: ApiProcess, case: _Case) -> None:
    answer = b""
    for left in reversed(range(_TRIES)):
        over = asyncio.Event()
        watching = asyncio.create_task(_longest_wait(api, over))
        answer = await _send(api, case)
        over.set()
        lag = await watching
        if lag < _LAG:
            break
        assert left, f"others waited for {lag:.2f} s"
    statuses = [int(status) for status in re.findall(rb"(?:^|\r\n|\})HTTP/1\.[01] (\d{3}) ", answer)]
    if statuses:
        assert set(statuses) <= set(case.expect), answer[:500]
        assert max(statuses) < 500
    else:
        assert "close" in case.expect or "open" in case.expect, answer[:500]
    assert _CANARY not in answer
    if statuses and statuses[-1] >= 400 and b"HTTP/1.1 405" not in answer:
        assert b"content-type: application/problem+json" in answer
    assert b"\r\nserver:" not in answer.lower()
    good = await api.raw(_post(_GOOD))
    assert good.startswith(b"HTTP/1.1 201 "), good[:500]
