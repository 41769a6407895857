"""Servers of PostgreSQL that the tests own and may break."""

import asyncio
import functools
import os
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from app.embedded import EmbeddedPostgres
from tests.services.freezing import freeze, thaw
from tests.services.postgres_server import SETTINGS, PostgresServer


class OwnPostgres(PostgresServer, ABC):
    """A throw-away server whose processes are in our hands. Its address stays the same over restarts."""

    @abstractmethod
    async def start(self) -> None:
        """Start it, for the first time or after `stop` or `kill`, and wait until it accepts connections."""

    @abstractmethod
    async def stop(self) -> None:
        """Fast shutdown: sessions are ended, nothing is lost."""

    @abstractmethod
    async def kill(self) -> None:
        """End all its processes at once, as a crash of the machine would."""

    @abstractmethod
    async def pause(self) -> None:
        """Freeze all its processes: connections stay open, nobody answers."""

    @abstractmethod
    async def resume(self) -> None:
        """Let the frozen processes go on."""

    @abstractmethod
    async def remove(self) -> None:
        """End it in whatever state it is, and delete its data."""

    async def restart(self) -> None:
        await self.stop()
        await self.start()


class LocalPostgres(OwnPostgres):
    def __init__(self, settings: Mapping[str, str], *, folder: Path | None = None) -> None:
        """In `folder`, which is the caller's to delete, or in one of its own."""
        super().__init__("")
        self._directory = tempfile.TemporaryDirectory(prefix="outbox-postgres-")
        place = folder or Path(self._directory.name)
        self._server = EmbeddedPostgres(place, durable=False, settings={**SETTINGS, **settings})

    @property
    def running(self) -> bool:
        return self._server.running

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def socket_dir(self) -> Path | None:
        return self._server.socket_dir

    async def start(self) -> None:
        await asyncio.to_thread(self._start)
        self.admin_url = self._server.url()

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def kill(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)  # its children notice and end
        await asyncio.to_thread(self._server.stop)

    async def crash(self) -> None:
        """Immediate shutdown: sessions are ended, nothing is written any more, and the next start recovers."""
        os.kill(self._server.pid, signal.SIGQUIT)
        await asyncio.to_thread(self._server.stop)

    async def pause(self) -> None:
        freeze(self._server.pid)

    async def resume(self) -> None:
        thaw(self._server.pid)

    def _start(self) -> None:
        if not (self._server.data_dir / "cluster").exists():  # which the server would make now
            subprocess.run(["cp", "-a", f"{_new_cluster().name}/.", str(self._server.data_dir)], check=True)
        self._server.start()

    async def remove(self) -> None:
        if self._server.running:
            thaw(self._server.pid)
        await self.stop()
        self._directory.cleanup()


@functools.cache
def _new_cluster() -> tempfile.TemporaryDirectory[str]:
    """The data of a server that was started once: copied in a fraction of the time that it takes to make."""
    directory = tempfile.TemporaryDirectory(prefix="outbox-postgres-")
    with EmbeddedPostgres(Path(directory.name), durable=False):
        return directory
