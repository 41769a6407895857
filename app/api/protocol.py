"""The server's side of a connection: uvicorn's, with a bound on the head of a request and problems as its refusals."""

import json
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app import log
from app.api.kinds import HEADERS_TOO_LARGE, MALFORMED_REQUEST, Kind
from app.api.problems import MEDIA_TYPE

logger = log.get(__name__)

LIMIT = 32_768
"""Most bytes of a head: request line and headers. The parser itself takes a head of any length."""


class _TooLarge(Exception):
    pass


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose head is too large (431) before it is all in memory, and one that is not HTTP (400)."""

    _in_body = False
    _unfinished = 0
    """Bytes since the last head was complete, while there is no body to take them."""
    _trailers = 0
    _refusal: Kind = MALFORMED_REQUEST

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the head does not end."""
        if not self._in_body:
            self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > LIMIT and not self.transport.is_closing():
            self._refusal = HEADERS_TOO_LARGE
            self.send_400_response("")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer, which comes after the body, is dropped."""
        if self._in_body:
            self._trailers += len(name) + len(value)
            if self._trailers > LIMIT:
                self._refuse_too_large()
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, if its head is not too large."""
        self._in_body, self._unfinished, self._trailers = True, 0, 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > LIMIT:
            self._refuse_too_large()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes are another head."""
        self._in_body = False
        super().on_message_complete()

    def _refuse_too_large(self) -> None:
        self._refusal = HEADERS_TOO_LARGE
        raise _TooLarge  # out of the parser, which stops at it

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the kind says it
        """Answer what never became a request, and close."""
        kind, reference = self._refusal, uuid4().hex
        logger.info("connection.refused", problem=kind.name, reference=reference)
        problem = {"type": kind.type, "title": kind.title, "status": kind.status.value, "reference": reference}
        if kind is MALFORMED_REQUEST:
            problem["title"] = "These bytes are no request."
        body = json.dumps(problem).encode()
        head = [
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "connection: close",
        ]
        self.transport.write(STATUS_LINE[kind.status.value] + "\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
