"""Sends one request again and again over a few connections, each as soon as the last was answered: a process of its
own, `python -m bench.http_client PORT PATH CONNECTIONS SECONDS`, that prints the answers in a second.
"""

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

_BODY = json.dumps({"user_name": "Anna Petrova", "description": "Please connect the flat. " * 10}).encode()


class _Connection(asyncio.Protocol):
    """Counts answers; each is one that is not an error, or the run is worth nothing."""

    def __init__(self, request: bytes) -> None:
        self.answers = 0
        self.wrong: bytes | None = None
        self._request = request
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own says so to nobody
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        start = head.lower().index(b"content-length: ") + 16
        length = int(head[start:].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 201 "):
            self.wrong = self._buffer
            return
        self.answers += 1
        self._buffer = b""
        assert self._transport is not None
        self._transport.write(self._request)


async def _run(port: int, path: str, connections: int, seconds: float) -> float:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n"
    )
    request = head.encode() + b"\r\n" + _BODY
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: _Connection(request), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(0.5)  # until it runs evenly
    before, started = sum(each.answers for each in made), time.monotonic()
    await asyncio.sleep(seconds)
    answers, took = sum(each.answers for each in made) - before, time.monotonic() - started
    wrong = next((each.wrong for each in made if each.wrong is not None), None)
    if wrong is not None:
        raise SystemExit(wrong.decode())
    return answers / took


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))
