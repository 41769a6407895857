"""The W3C trace context of the work in hand, so that a message can say which request caused it."""

import re
import secrets
from contextvars import ContextVar

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

current: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The `traceparent` of this task, if it has one."""


def accept(header: str | None) -> str:
    """The caller's `traceparent` when it is well formed (W3C Trace Context, version 00 fields), else a new one."""
    if header is not None and _TRACEPARENT.fullmatch(header):
        return header
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
