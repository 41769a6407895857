"""A small HTTP/1.1 server that can do what no framework allows: end a connection in the middle of an answer."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import h11

_READ = 65536
_MAX_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Drop(Exception):
    """End the connection without an answer."""


Handler = Callable[[Request], Awaitable[Response]]


@contextlib.asynccontextmanager
async def listen(handle: Handler, listener: socket.socket) -> AsyncIterator[None]:
    """Answer requests at `listener` until the end of the block; what is under way then is cut off."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this is a coroutine of a task
        connections.add(task)
        # A client that went away, or the end of the block: either way there is nobody left to answer.
        with contextlib.suppress(OSError, Drop, h11.RemoteProtocolError, asyncio.CancelledError):
            await _converse(handle, reader, writer)
        connections.discard(task)
        writer.transport.abort()

    server = await asyncio.start_server(connected, sock=listener)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections)


async def _converse(handle: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of one connection, one after the other."""
    protocol = h11.Connection(h11.SERVER)
    while True:
        request = await _receive(protocol, reader)
        if request is None:
            return
        response = await handle(request)
        headers = [("content-type", "application/json"), ("content-length", str(len(response.body)))]
        events = (
            h11.Response(status_code=response.status, headers=[*headers, *response.headers]),
            h11.Data(data=response.body),
            h11.EndOfMessage(),
        )
        # In one piece: in several, each would wait for the acknowledgement of the one before (Nagle), 40 ms.
        writer.write(b"".join(protocol.send(event) or b"" for event in events))
        await writer.drain()
        if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
            return
        protocol.start_next_cycle()


async def _receive(protocol: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_BODY:
                return None
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode().partition("?")[0], headers, bytes(body))
        else:
            return None
