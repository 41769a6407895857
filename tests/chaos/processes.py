"""The service as processes that can be killed, frozen, stopped and started again."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import httpx2

from app.embedded.process import SupervisedProcess
from tests.services.ports import free_port
from tests.services.proxy import TcpProxy

ROOT = Path(__file__).resolve().parents[2]
_STOP = timedelta(seconds=40)


class Child:
    """A process of the service; it listens at the same port whenever it is started, and ends with this process."""

    def __init__(
        self, name: str, command: str, environment: Mapping[str, str], folder: Path, proxy: TcpProxy | None = None
    ) -> None:
        self.name = name
        self.command = command
        self.port = free_port()
        self.proxy = proxy
        """Its own way to PostgreSQL, where it has one."""
        self.log = folder / f"{name}.log"
        self._command_line = (command, "--port", str(self.port))
        self.arguments: tuple[str, ...] = (
            *(sys.executable, "-c", "from app.cli import main; main()"),
            *self._command_line,
        )
        self._environment = dict(environment)
        self._process: SupervisedProcess | None = None
        self.wanted = False
        """Should it be running? Nobody but a fault may end it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def shift_clock(self, wrong_by: timedelta, zone: str) -> None:
        """From its next start on its clock is wrong by this, and it believes to be in another time zone."""
        self.arguments = (
            *(sys.executable, "-m", "tests.chaos.shifted", str(wrong_by.total_seconds())),
            *self._command_line,
        )
        self._environment["TZ"] = zone

    def start(self) -> None:
        """Start it; does not wait until it is ready."""
        inherited = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "HOME", "TMP"))}
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = SupervisedProcess(
                self.arguments,
                log=output,
                ending=signal.SIGKILL,
                environment={**inherited, "PYTHONPATH": str(ROOT), **self._environment},
            )
        finally:
            os.close(output)
        self.wanted = True

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.wanted = False
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait, _STOP)

    async def stop(self) -> bool:
        """SIGTERM; whether it ended in time."""
        self.wanted = False
        if self._process is None:
            return True
        self.signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, _STOP)

    async def ready(self, client: httpx2.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/readyz", timeout=3)).status_code == httpx2.codes.OK
        except (httpx2.HTTPError, OSError):
            return False

    def open_files(self) -> int:
        try:
            return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return 0

    def memory(self) -> int:
        """Bytes resident."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGESIZE")
