"""Serving an ASGI application over HTTP until told to stop."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta

import uvicorn
from starlette.types import ASGIApp

from app.api.protocol import BoundedProtocol
from app.errors import ConfigurationError, OutboxError

_BACKLOG = 2048
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not listened on


def listen(host: str, port: int, *, setting: str = "API") -> socket.socket:
    """A listening socket, so that a taken port is known before anything else is started; port 0 takes a free
    one.

    Raises ConfigurationError, which names the settings `{setting}_HOST` and `{setting}_PORT`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ConfigurationError(f"{setting}_HOST: {host} is not the name of an address") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        match error.errno:
            case errno.EADDRINUSE:
                advice = f"port {port} on {host} is taken: set {setting}_PORT or stop the other program"
            case errno.EACCES:
                advice = f"port {port} on {host} needs more rights: set {setting}_PORT to one above 1023"
            case errno.EADDRNOTAVAIL:
                advice = f"{host} is not an address of this machine: set {setting}_HOST"
            case _:
                code = errno.errorcode.get(error.errno or 0, "unknown")
                advice = f"cannot listen on port {port} of {host} ({code})"
        raise ConfigurationError(advice) from error
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


def url(listener: socket.socket) -> str:
    """Where a program on this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, with the process's signals left to us."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, then say so."""
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to whoever sets the stop event."""
        yield


async def run(
    app: ASGIApp,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    stop_deadline: timedelta,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve `app` on `listener` until `stop` is set; `ready` is called when requests are taken.

    Then nothing new is accepted, requests under way have `stop_deadline` to finish, and the listener is
    closed. Raises OutboxError when the application does not start.
    """
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,  # httptools, which refuses Content-Length together with Transfer-Encoding
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(stop_deadline.total_seconds())),
    )
    server = _Server(config, ready)

    async def watch() -> None:
        await stop.wait()
        server.should_exit = True

    watcher = asyncio.create_task(watch())
    try:
        await server.serve([listener])
    except SystemExit:
        # uvicorn's way to say that the lifespan failed, which it has logged.
        raise OutboxError("the API did not start") from None
    finally:
        watcher.cancel()
        listener.close()
