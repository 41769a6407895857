"""Asking an HTTP server on this machine or in this network, with nothing but the standard library."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from urllib.parse import urlsplit

from app.errors import ConfigurationError, Unavailable


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """The body as JSON, None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(
    url: str, *, post: object = None, headers: Mapping[str, str] = MappingProxyType({}), timeout: timedelta
) -> Answer:
    """GET `url`, or POST something to it as JSON, with these headers. Blocks.

    Raises ConfigurationError for an address that is none, and Unavailable when nobody answers in time.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or (port is None and ":" in parts.netloc[-6:]):
        raise ConfigurationError(f"{url} is not an address such as http://127.0.0.1:8000/readyz")
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname, port, timeout=timeout.total_seconds())
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        if post is None:
            connection.request("GET", target, headers=headers)
        else:
            connection.request(
                "POST", target, json.dumps(post).encode(), {"Content-Type": "application/json", **headers}
            )
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"nobody answers at {url} ({type(error).__name__})") from error
    finally:
        connection.close()
