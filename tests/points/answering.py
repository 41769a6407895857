"""The API meets a fault at a point of a request. Its client repeats with the same key, as it is told to."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import httpx2

from app import main
from app.settings import Settings, load
from tests.armed import Child, child
from tests.engine import connect
from tests.failpoints import Action, Fault, Injected, armed
from tests.services.kafka import Kafka
from tests.services.ports import free_port
from tests.waiting import until

DEADLINE = 1.5
SECONDS = 2.2

# Is the request done with, when it is met there?
POINTS = {
    "api.before_domain": False,
    "api.after_domain": False,
    "api.after_outbox": False,
    "api.before_commit": False,
    "api.after_commit": True,
    "shutdown.before_close": True,
}
_KEY = {"idempotency-key": "once"}
_BODY = {"user_name": "Anna", "description": "Please."}
_STORED = """
    SELECT (SELECT count(*) FROM applications), (SELECT count(*) FROM outbox_messages),
        (SELECT count(*) FROM idempotency_keys),
        (SELECT count(*) FROM applications AS a JOIN outbox_messages AS m ON m.key = convert_to(a.id::text, 'UTF8'))
"""


def settings(database_url: str) -> dict[str, Any]:
    return {"database_url": database_url, "rate_limit_writes": 0, "rate_limit_reads": 0, "log_level": "warning"}


@dataclass(frozen=True)
class Client:
    """Who asks for one application, and repeats until it is answered."""

    http: httpx2.AsyncClient
    connection: asyncpg.Connection

    async def ask(self) -> httpx2.Response | None:
        """The answer; None if there was none."""
        try:
            return await self.http.post("/applications", json=_BODY, headers=_KEY)
        except httpx2.TransportError:
            return None

    async def insist(self) -> tuple[httpx2.Response, bool]:
        """The answer, and whether it came at the first time: else nobody knows what the times before it have done."""
        at_once = True
        async with asyncio.timeout(60):
            while True:
                response = await self.ask()
                if response is not None and response.status_code not in {409, 500, 503}:
                    assert response.status_code == 201
                    return response, at_once
                at_once = False

    async def stored(self) -> int:
        """0 or 1 of each: row, message, kept answer, and the message is the row's (all or nothing)."""
        counts = set(await self.connection.fetchrow(_STORED))
        assert counts in ({0}, {1}), f"half of it: {counts}"
        return int(counts.pop())

    async def judge(self, fault: Fault) -> None:
        """What was met half-way is nothing; its repeat is the first; and what was done is not done again."""
        done = POINTS[fault.point]
        assert await self.stored() == done
        first, at_once = await self.insist()
        replayed = "idempotency-replayed" in first.headers
        assert replayed if done else not (replayed and at_once)
        again, _ = await self.insist()
        assert again.json() == first.json()
        assert await self.stored() == 1


@asynccontextmanager
async def client(database_url: str, port: int) -> AsyncIterator[Client]:
    async with (
        connect(database_url) as connection,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        yield Client(http, connection)


async def die_at(point: str, database_url: str, _kafka: Kafka) -> None:
    """A process of the API dies there; its successor answers."""
    fault, port = Fault(point, Action.EXIT), free_port()
    command = ("api", "--port", str(port))
    async with client(database_url, port) as it:
        async with child(*command, fault=fault, settings=settings(database_url)) as dying:
            await listening(dying, port)
            response = await it.ask()
            assert (response is None) == (not point.startswith("shutdown."))
            if response is not None:
                dying.terminate()
            await dying.dies()
        async with child(*command, settings=settings(database_url)) as heir:
            await listening(heir, port)
            await it.judge(fault)
            await heir.stop()


async def meet(fault: Fault, database_url: str) -> None:
    """A request fails, is cancelled or late there; the API goes on."""
    stopping = fault.point.startswith("shutdown.")
    # A busy machine alone makes nothing late otherwise.
    deadline = DEADLINE if fault.action is Action.SLEEP and not stopping else 30
    loaded = load(_env_file=None, **settings(database_url), api_database_deadline=deadline)
    with armed(fault) as arming, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with client(database_url, port) as it:
            async with serving(loaded, listener):
                response = await it.ask()
                if stopping:
                    assert response is not None
                else:
                    while not arming.struck.is_set():  # a busy machine may be too late by itself
                        assert response is not None
                        assert response.status_code == 503
                        response = await it.ask()
                    expected = 201 if fault.point == "api.after_commit" and fault.action is Action.SLEEP else None
                    assert response is None or response.status_code == expected or response.status_code >= 500
                    await it.judge(fault)
            if stopping:
                with socket.create_server(("127.0.0.1", port)) as again:
                    async with serving(loaded, again):
                        await it.judge(fault)


@asynccontextmanager
async def serving(loaded: Settings, listener: socket.socket) -> AsyncIterator[None]:
    """The API over HTTP in the test's own process; at the end it must stop, in whatever way."""
    listener.setblocking(False)
    stop = asyncio.Event()
    task = asyncio.create_task(main.serve(loaded, main.create_app(loaded), stop, listener=listener))
    try:
        yield
    finally:
        stop.set()
        with suppress(Injected, asyncio.CancelledError):
            await asyncio.wait_for(task, 30)


async def listening(server: Child, port: int) -> None:
    """Wait until the process takes requests there."""

    async def accepts() -> bool:
        server.lives()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(accepts, timedelta(seconds=60))
