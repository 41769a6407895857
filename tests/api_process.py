"""The API as a process of its own, as `outbox api` runs it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.services.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parent.parent
_STOP_DEADLINE = 20.0  # seconds


@dataclass(frozen=True)
class ApiProcess:
    host: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def raw(self, request: bytes, *, shut: bool = False) -> bytes:
        """Send these bytes on a connection of their own; all that comes back until the server closes it, or, with
        `shut`, until it has answered and we close it.
        """
        reader, writer = await asyncio.open_connection(self.host, self.port)
        answer = b""
        with suppress(ConnectionError):  # a server that has refused a request reads no more of it
            writer.write(request)
            if shut:
                writer.write_eof()
            while piece := await reader.read(65_536):
                answer += piece
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    async def alive(self) -> bool:
        try:
            return b" 200 " in await self.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        except OSError:
            return False


@asynccontextmanager
async def api_process(database_url: str, **settings: str) -> AsyncIterator[ApiProcess]:
    """A process with these settings (as environment variables, in small letters), and without rate limits."""
    port = free_port()
    given = {"rate_limit_writes": "0", "rate_limit_reads": "0", "log_level": "warning", **settings}
    environment = {name.upper(): value for name, value in given.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from app.cli import main; main()", "api", "--port", str(port)),
        cwd=ROOT,
        env={"PATH": os.environ.get("PATH", os.defpath), "DATABASE_URL": database_url, **environment},
    )
    served = ApiProcess("127.0.0.1", port, process.pid)
    try:
        await until(served.alive)
        yield served
        assert process.returncode is None, "it ended by itself"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_DEADLINE):
            await process.wait()
