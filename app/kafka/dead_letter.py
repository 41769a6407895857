"""An input that we stopped trying, as a message for a topic of dead letters: the raw bytes, and where they came from.

The headers of the input travel along. Those that would be taken for ours or for the relay's get a prefix.
"""

import hashlib
from collections.abc import Sequence

from app.inbox.store import Attempts
from app.kafka.input import Input
from app.outbox import OutboxMessage

PREFIX = "dlq."
ORIGINAL = PREFIX + "original.header."
_TAKEN = ("ce_", "dlq.", "dlq-")
_EXCERPT = 65_536
"""Bytes that are kept of a part that is too large; less where messages must be smaller still."""

Headers = Sequence[tuple[str, bytes]]


def size(key: bytes | None, payload: bytes | None, headers: Headers) -> int:
    """At least what the database counts of a message (MESSAGE_MAX_BYTES)."""
    return (
        64
        + len(key or b"")
        + len(payload or b"")
        + sum(len(name.encode()) + len(value) + 16 for name, value in headers)
    )


def dead_letter(
    record: Input, *, topic: str, consumer: str, source: str, reason: str, attempts: Attempts | None, max_bytes: int
) -> OutboxMessage:
    """The dead letter of `record` for `topic`, at most `max_bytes` large: what does not fit is cut to its beginning."""
    ours = [
        ("dlq.reason", reason),
        ("dlq.consumer", consumer),
        ("dlq.topic", record.topic),
        ("dlq.partition", str(record.partition)),
        ("dlq.offset", str(record.offset)),
        ("dlq.timestamp", str(record.timestamp)),
    ]
    if attempts is not None:
        ours += [("dlq.attempts", str(attempts.number)), ("dlq.first-attempt-at", attempts.first_at.isoformat())]
    nulls = [name for name, value in record.headers if value is None]
    excerpt = min(_EXCERPT, max_bytes // 5)
    if nulls:
        ours.append(("dlq.null-headers", ", ".join(nulls)[: excerpt // 4]))
    key, value = record.key, record.value
    headers = [(_renamed(name), content) for name, content in record.headers if content is not None]
    if size(key, value, headers) + size(None, None, _encoded(ours)) + excerpt // 4 > max_bytes:
        whole = value or b""
        ours += [("dlq.value-bytes", str(len(whole))), ("dlq.value-sha256", hashlib.sha256(whole).hexdigest())]
        parts = {"value": len(whole), "key": len(key or b""), "headers": size(None, None, headers)}
        ours.append(("dlq.cut", ", ".join(part for part, length in parts.items() if length > excerpt)))
        value, key = value and value[:excerpt], key and key[:excerpt]
        headers = headers if parts["headers"] <= excerpt else []
    return OutboxMessage(
        topic=topic,
        key=key,
        payload=value,
        type="message.dead_lettered",
        headers=(("ce_source", source.encode()), *_encoded(ours), *headers),
    )


def _encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[str, bytes]]:
    return [(name, value.encode("utf-8", "replace")) for name, value in headers]


def _renamed(name: str) -> str:
    return ORIGINAL + name if name.lower().startswith(_TAKEN) else name
