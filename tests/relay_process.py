"""Relays as processes of their own, to be killed, frozen and told to stop."""

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from tests.waiting import until


class RelayProcess:
    """`python -m relay`, running."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def ready(self) -> None:
        async def is_ready() -> bool:
            assert self._process.returncode is None, self.log
            return "relay.ready" in self.log

        await until(is_ready)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self, timeout: timedelta = timedelta(seconds=30)) -> int:
        """Its exit status."""
        return await asyncio.wait_for(self._process.wait(), timeout.total_seconds())


@asynccontextmanager
async def relay_process(database_url: str, bootstrap_servers: str, **settings: object) -> AsyncIterator[RelayProcess]:
    """A relay with these settings, ready; killed at the end of the block if it still runs."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COVERAGE", "PYTHON"))}
    environment = {
        **inherited,
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "RELAY_PORT": "0",
        "LOG_FORMAT": "json",
        **{name.upper(): str(value) for name, value in settings.items()},
    }
    with tempfile.TemporaryDirectory(prefix="outbox-relay-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "relay"), env=environment, stdout=output, stderr=output
            )
        relay = RelayProcess(process, log)
        try:
            await relay.ready()
            yield relay
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
