"""One exchange with a third party: sent or not, answered or not, and nothing of its words but numbers and ids.

Third parties echo keys and inputs in their errors, so the text of an error is read only to tell one kind from
another, and never kept.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeAlias

import httpx2

from app import log
from app.api import strict_json
from app.settings import Settings

logger = log.get(__name__)

_MAX_BYTES = 1024 * 1024
_KEEP_ALIVE = timedelta(minutes=2)  # Dadata limits new connections a minute
_LONGEST_RETRY_AFTER = timedelta(hours=1)
_TRACE_HEADERS = ("x-request-id", "x-server-trace-id")
_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `body` is None when it is not JSON as `app.api.strict_json` takes it."""

    status: int
    body: Any = field(repr=False)
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True)
class NotSent:
    """No connection was made, so nothing was asked."""

    code: str


@dataclass(frozen=True, slots=True)
class Lost:
    """It was sent, in part or whole, and no whole answer came."""

    code: str


@asynccontextmanager
async def connect(settings: Settings, *, slots: int, timeout: timedelta) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for one third party, with `slots` connections that are kept open.

    Follows no redirects and reads nothing of the environment: where it goes is decided by our settings alone.
    """
    proxy = settings.providers_proxy
    async with httpx2.AsyncClient(
        timeout=timeout.total_seconds(),
        limits=httpx2.Limits(
            max_connections=slots, max_keepalive_connections=slots, keepalive_expiry=_KEEP_ALIVE.total_seconds()
        ),
        follow_redirects=False,
        trust_env=False,
        verify=_trusted(),
        proxy=proxy.get_secret_value() if proxy else None,
        headers={"accept": "application/json", "user-agent": "outbox-service"},
    ) as client:
        yield client


@cache
def _trusted() -> ssl.SSLContext:
    """The authorities that this machine trusts, read once: all clients share them."""
    return httpx2.create_ssl_context(trust_env=False)


Exchange: TypeAlias = Reply | NotSent | Lost


async def exchange(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: object = None,
    deadline: timedelta,
) -> Exchange:
    """Send `content` as JSON and take the whole answer within `deadline`."""
    try:
        async with (
            asyncio.timeout(deadline.total_seconds()),
            client.stream(method, url, headers=headers, json=content) as response,
        ):
            body = await _read(response)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
        return NotSent(type(error).__name__)
    except (httpx2.RequestError, TimeoutError) as error:
        return Lost(type(error).__name__)
    if body is None:
        return Lost("AnswerTooLarge")
    if not response.is_success:
        trace = {name: response.headers.get(name, "") for name in _TRACE_HEADERS}
        logger.info(
            "provider.refused",
            host=response.url.host,
            status=response.status_code,
            **{name: value for name, value in trace.items() if _TRACE_ID.fullmatch(value)},
        )
    return Reply(response.status_code, _parse(body), _retry_after(response.headers.get("retry-after")))


async def _read(response: httpx2.Response) -> bytes | None:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_BYTES:
            return None
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        return strict_json.parse(body)
    except (strict_json.NotJson, strict_json.NotStorable):
        return None


def _retry_after(header: str | None) -> timedelta | None:
    """Seconds or a date (RFC 9110, 10.2.3); never longer than an hour."""
    if header is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", header):
        seconds = timedelta(seconds=int(header))
    else:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = date.astimezone(UTC) - datetime.now(UTC)
    return min(max(seconds, timedelta(0)), _LONGEST_RETRY_AFTER)
