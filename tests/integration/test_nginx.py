"""The proxy that `docs/deployment.md` shows, tried with a real nginx before the API."""

import asyncio
import re
import resource
import shutil
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.api_process import ApiProcess, api_process
from tests.services.ports import free_port
from tests.services.postgres_server import PostgresServer
from tests.waiting import until

_PAGE = Path(__file__).parent.parent.parent / "docs" / "deployment.md"
_IDLE = 10_000

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class _Proxied:
    api: ApiProcess
    proxy: ApiProcess


@pytest.fixture(scope="module")
async def proxied(
    postgres: PostgresServer, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[_Proxied]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx on this machine")
    directory, port = tmp_path_factory.mktemp("nginx"), free_port()
    sample = re.search(r"```nginx\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert sample is not None
    url = await postgres.create_database(template_database)
    async with api_process(url, trusted_proxies="127.0.0.1", rate_limit_writes="5") as api:
        configuration = sample[1].replace("listen 80 ", f"listen 127.0.0.1:{port} ")
        configuration = configuration.replace("server 127.0.0.1:8000;", f"server 127.0.0.1:{api.port};")
        paths = [
            f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ]
        configuration = configuration.replace("http {\n", "http {\n" + "\n".join(paths) + "\n", 1)
        (directory / "nginx.conf").write_text(
            f"daemon off;\npid {directory}/pid;\nerror_log {directory}/error.log;\n{configuration}", encoding="utf-8"
        )
        process = await asyncio.create_subprocess_exec(
            program, *("-p", str(directory), "-e", str(directory / "error.log"), "-c", str(directory / "nginx.conf"))
        )
        proxy = ApiProcess("127.0.0.1", port, process.pid)
        try:
            await until(proxy.alive)
            yield _Proxied(api, proxy)
        finally:
            process.terminate()
            await process.wait()
    await postgres.drop_database(url)


def _post(address: str) -> bytes:
    body = b'{"user_name":"a","description":"b"}'
    head = (
        "POST /applications HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Forwarded-For: {address}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def test_the_clients_address_cannot_be_chosen(proxied: _Proxied) -> None:
    answers = [await proxied.proxy.raw(_post(f"6.6.6.{number}")) for number in range(6)]
    assert [answer[9:12] for answer in answers] == [b"201"] * 5 + [b"429"]


async def test_limits_hold_at_the_proxy(proxied: _Proxied) -> None:
    large = b"POST /applications HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\nConnection: close\r\n\r\n"
    assert (await proxied.proxy.raw(large))[9:12] == b"413"
    long = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n"
    assert (await proxied.proxy.raw(long))[9:12] in (b"400", b"431")
    smuggled = (
        b"POST /applications HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    answer = await proxied.proxy.raw(smuggled)
    assert answer[9:12] == b"400"
    assert b"alive" not in answer
    metrics = await proxied.proxy.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert metrics[9:12] == b"403"


@pytest.mark.parametrize(
    "start",
    [b"GET /livez HTT", b"POST /applications HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"],
    ids=["head", "body"],
)
async def test_a_slow_client_is_left(proxied: _Proxied, start: bytes) -> None:
    started = time.monotonic()
    async with asyncio.timeout(30):
        await proxied.proxy.raw(start)
    assert 9 < time.monotonic() - started < 20


async def test_ten_thousand_idle_connections(proxied: _Proxied) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _IDLE + 1000:
        pytest.skip("this machine does not allow so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _IDLE + 1000), hard))
    idle: list[socket.socket] = []

    def connect() -> None:
        for _ in range(_IDLE):
            idle.append(socket.create_connection((proxied.proxy.host, proxied.proxy.port), timeout=10))  # noqa: PERF401

    try:
        await asyncio.to_thread(connect)
        for _ in range(5):
            started = time.monotonic()
            assert await proxied.proxy.alive()
            assert await proxied.api.alive()
            assert time.monotonic() - started < 5
        assert len(idle) == _IDLE
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
