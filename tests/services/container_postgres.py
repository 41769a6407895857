"""PostgreSQL from its image."""

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import asyncpg
from testcontainers.community.postgres import PostgresContainer

from tests.services.ports import free_port
from tests.services.postgres import OwnPostgres
from tests.services.postgres_server import SETTINGS

IMAGE = "postgres:18"

_READY_TIMEOUT = timedelta(seconds=60)
_POLL_INTERVAL = timedelta(milliseconds=20)


class ContainerPostgres(OwnPostgres):
    def __init__(self, settings: Mapping[str, str]) -> None:
        port = free_port()
        super().__init__(f"postgresql+asyncpg://postgres:postgres@127.0.0.1:{port}/postgres")
        options = {**SETTINGS, "fsync": "off", "full_page_writes": "off", **settings}
        self._container = PostgresContainer(
            IMAGE, username="postgres", password="postgres", dbname="postgres", driver="asyncpg"
        ).with_command(["postgres", *(f"--{name}={value}" for name, value in options.items())])
        # A fixed port: a random one changes with a restart. On loopback, which the types do not foresee.
        self._container.ports = cast("Any", {"5432/tcp": ("127.0.0.1", port)})
        self._created = False

    async def start(self) -> None:
        if self._created:
            await asyncio.to_thread(self._container.get_wrapped_container().start)
        else:
            self._created = True
            await asyncio.to_thread(self._container.start)
        await self._wait_until_ready()

    async def stop(self) -> None:
        await asyncio.to_thread(self._container.get_wrapped_container().kill, "SIGINT")
        await asyncio.to_thread(self._container.get_wrapped_container().wait)

    async def kill(self) -> None:
        await asyncio.to_thread(self._container.get_wrapped_container().kill)
        await asyncio.to_thread(self._container.get_wrapped_container().wait)

    async def pause(self) -> None:
        await asyncio.to_thread(self._container.get_wrapped_container().pause)

    async def resume(self) -> None:
        await asyncio.to_thread(self._container.get_wrapped_container().unpause)

    async def remove(self) -> None:
        await asyncio.to_thread(self._container.stop)

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT.total_seconds()
        while True:
            try:
                async with self.connection():
                    return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL_INTERVAL.total_seconds())
