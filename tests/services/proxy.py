"""A network between client and server that a test can cut, freeze and slow down."""

import asyncio
import socket
import struct
from contextlib import suppress
from datetime import timedelta
from typing import Self

from sqlalchemy import make_url

from tests.services.ports import free_port

_CHUNK = 65_536  # bytes


class TcpProxy:
    """Forwards connections to `host`:`port` from a port of its own on the loopback interface.

    Good for PostgreSQL. Clients of Kafka use a proxy for their first connection only, then the brokers' own
    addresses.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.host = "127.0.0.1"
        self.port = free_port()
        self.delay = timedelta(0)
        """How long each piece of data waits, in each direction."""
        self.outgoing: set[int] = set()
        """Local ports of the connections to the target: as a server sees who comes this way."""

    def through(self, url: str) -> str:
        """The address of a database, by way of this proxy."""
        return make_url(url).set(host=self.host, port=self.port).render_as_string(hide_password=False)

    async def cut(self) -> None:
        """Reset all connections and refuse new ones until `restore`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def restore(self) -> None:
        """Accept connections again."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)

    def pause(self) -> None:
        """Let nothing through, in both directions; connections stay open, and new ones are accepted."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let through what was held back, and all that follows."""
        self._flowing.set()

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            with suppress(OSError):
                target_reader, target_writer = await asyncio.open_connection(*self._target)
                ends.append(target_writer)
                outgoing = target_writer.get_extra_info("sockname")[1]
                self.outgoing.add(outgoing)
                try:
                    await self._forward(reader, writer, target_reader, target_writer)
                finally:
                    self.outgoing.discard(outgoing)
            for end in ends:
                end.close()  # what is still in its buffer goes out first
        except asyncio.CancelledError:  # by `cut`; going on with it would be logged as an error
            for end in ends:
                _reset(end)
        finally:
            self._connections.discard(task)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target_reader: asyncio.StreamReader,
        target_writer: asyncio.StreamWriter,
    ) -> None:
        """Both directions, until one end closes."""
        pumps = [
            asyncio.create_task(self._pump(reader, target_writer)),
            asyncio.create_task(self._pump(target_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await asyncio.sleep(self.delay.total_seconds())
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Without lingering, closing a socket sends RST instead of FIN.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
