"""The server around the application: sockets, starting, stopping."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import httpx2
import pytest
from fastapi import FastAPI

from app import settings as app_settings
from app.api import server
from app.errors import ConfigurationError
from app.main import create_app, serve
from tests.api import NOWHERE

_LONG = timedelta(seconds=20)


@dataclass(frozen=True)
class _Served:
    url: str
    port: int
    stop: asyncio.Event
    task: asyncio.Task[None]
    app: FastAPI

    async def raw(self, request: bytes) -> bytes:
        """The first bytes that come back for these."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await reader.read(65_536)
        writer.close()
        await writer.wait_closed()
        return answer


@asynccontextmanager
async def _served(**overrides: object) -> AsyncIterator[_Served]:
    settings = app_settings.load(_env_file=None, database_url=NOWHERE, api_port=0, **overrides)
    app, stop, urls = create_app(settings), asyncio.Event(), asyncio.Queue[str]()
    task = asyncio.create_task(serve(settings, app, stop, ready=urls.put_nowait))
    async with asyncio.timeout(_LONG.total_seconds()):
        url = await urls.get()
    try:
        yield _Served(url, int(url.rpartition(":")[2]), stop, task, app)
    finally:
        stop.set()
        async with asyncio.timeout(_LONG.total_seconds()):
            await task


async def test_serves_until_told_to_stop() -> None:
    async with _served() as served, httpx2.AsyncClient() as client:
        response = await client.get(f"{served.url}/livez")
        assert response.status_code == 200
        assert "server" not in response.headers
        assert "date" in response.headers
    with pytest.raises(httpx2.ConnectError):
        async with httpx2.AsyncClient() as client:
            await client.get(f"{served.url}/livez")


async def test_a_request_under_way_is_finished_before_the_end() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()
    async with _served() as served, httpx2.AsyncClient(timeout=20) as client:

        @served.app.get("/slow")
        async def slow() -> str:
            arrived.set()
            await go.wait()
            return "done"

        request = asyncio.create_task(client.get(f"{served.url}/slow"))
        await arrived.wait()
        served.stop.set()
        go.set()
        assert (await request).json() == "done"


async def test_a_request_that_does_not_end_delays_the_stop_no_longer_than_allowed() -> None:
    arrived = asyncio.Event()
    async with httpx2.AsyncClient(timeout=20) as client:
        async with _served(api_stop_deadline=1) as served:

            @served.app.get("/endless")
            async def endless() -> None:
                arrived.set()
                await asyncio.Event().wait()

            request = asyncio.create_task(client.get(f"{served.url}/endless"))
            await arrived.wait()
        with suppress(httpx2.HTTPError):
            assert (await request).status_code == 500


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"^port {port} on 127.0.0.1 is taken: set API_PORT or stop the other program$"
        ):
            server.listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "says"), [("192.0.2.1", "set API_HOST"), ("no.such.host.invalid", "^API_HOST: ")])
def test_an_address_that_is_not_ours(host: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        server.listen(host, 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("0.0.0.0", "http://127.0.0.1:"),  # noqa: S104 - closed at once
        ("::1", "http://[::1]:"),
    ],
)
def test_the_url_is_one_that_can_be_opened(host: str, shown: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with server.listen(host, 0) as listener:
        assert server.url(listener).startswith(shown)


async def test_two_lengths_of_a_body_are_refused() -> None:
    # Content-Length and Transfer-Encoding together: what follows the body would be taken for a second request.
    async with _served() as served:
        answer = await served.raw(
            b"POST /applications HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1


async def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody() -> None:
    async with _served() as served, httpx2.AsyncClient() as client:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /applications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await client.get(f"{served.url}/livez")).status_code == 200
