"""What happens around every request, as plain ASGI middleware."""

import re
import time
import traceback
from collections.abc import Mapping
from uuid import uuid4

import structlog
from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import log, trace
from app.api import kinds, problems
from app.db import sqlstate

logger = log.get(__name__)

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")
_LAST_PORT = 65_535
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Asked for every few seconds by machines: not worth a line of the log.
_QUIET = {"/livez", "/readyz", "/metrics"}
_CLIENT_LEFT = 499
# For answers that are data, not pages; HTTPS and its headers are the proxy's.
_SECURITY = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}

_duration = Histogram(
    "http_server_request_duration_seconds",
    "Time from the request's arrival to the end of its answer.",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


class Observe:
    """Gives each request an id and a trace context, and its end a line in the log and a measurement.

    What no handler expected ends here as a problem with nothing but a reference. The log gets the kind of the
    error and where it happened, never its text, which may quote what was sent or stored.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        headers = Headers(scope=scope)
        request_id = _accept_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _mark(message, request_id, scope["state"].get("headers", {}))
            await send(message)

        traceparent = trace.accept(headers.get("traceparent"))
        token = trace.current.set(traceparent)
        with structlog.contextvars.bound_contextvars(request_id=request_id, trace_id=traceparent.split("-")[1]):
            try:
                await self._app(scope, receive, send_marked)
            except ClientDisconnect:
                pass  # there is nobody to answer
            except Exception as error:  # noqa: BLE001 - the last place that can answer
                _report(error)
                if status == 0:
                    await problems.answer(scope, kinds.UNEXPECTED)(scope, receive, send_marked)
            finally:
                trace.current.reset(token)
                _record(scope, status or _CLIENT_LEFT, time.perf_counter() - started)


def _accept_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else uuid4().hex


def _mark(start: Message, request_id: str, extra: Mapping[str, str]) -> None:
    headers = MutableHeaders(raw=start["headers"])
    for name, value in extra.items():
        headers.setdefault(name, value)
    headers["x-request-id"] = request_id
    for name, value in _SECURITY.items():
        headers.setdefault(name, value)
    # What has an ETag is a file of ours; everything else may be about a person.
    headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")


def _report(error: Exception) -> None:
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    logger.error(
        "request.failed",
        error=type(error).__name__,
        sqlstate=sqlstate(error),
        at=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )


def _record(scope: Scope, status: int, seconds: float) -> None:
    # The template, not the path: paths are without number, and a filter may name a person.
    route = getattr(scope.get("route"), "path", "-")
    _duration.labels(scope["method"], route, status).observe(seconds)
    write = logger.debug if route in _QUIET else logger.info
    write("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))


class Hosts:
    """Refuses a request whose `Host` is missing, double, malformed or, if `allowed` names any, not one of ours.

    The server takes all of these, and what builds links or decides by `Host` would believe them.
    """

    def __init__(self, app: ASGIApp, allowed: str) -> None:
        self._app = app
        self._allowed = frozenset(filter(None, (name.strip().lower() for name in allowed.split(","))))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not a request."""
        if scope["type"] == "http" and not self._accepts(scope):
            await problems.answer(scope, kinds.HOST_REFUSED)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _accepts(self, scope: Scope) -> bool:
        match Headers(scope=scope).getlist("host"):
            case []:
                return scope["http_version"] == "1.0" and not self._allowed
            case [host]:
                found = _HOST.fullmatch(host)
                if found is None or int(found["port"] or 0) > _LAST_PORT:
                    return False
                return not self._allowed or found["name"].lower() in self._allowed
            case _:
                return False


class OneSlash:
    """Lets a path be written with a slash at its end, without the detour of a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under its path without the slash."""
        path = scope.get("path", "/")
        if scope["type"] == "http" and path != "/" and path.endswith("/"):
            scope["path"] = path[:-1]
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses a body of more than `limit` bytes, whether its length was declared or not, before it is in
    memory.

    The framework's `max_body_size` does the same, but answers in plain text.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large, detail = kinds.BODY_TOO_LARGE, f"more than {self._limit} bytes are not accepted"
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._limit:
            await problems.answer(scope, too_large, detail)(scope, receive, send)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise problems.Refused(too_large, detail)
            return message

        await self._app(scope, receive_limited, send)
