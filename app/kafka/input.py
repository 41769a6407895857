"""What a consumer is given: a record as it lies in Kafka, what identifies it, and what tells it from others."""

import hashlib
import time
from dataclasses import dataclass
from datetime import timedelta

_LONGEST_ID = 400
"""Bytes; a longer id is replaced by its hash."""
_NO_LENGTH = b"\xff" * 8


@dataclass(frozen=True, slots=True)
class Input:
    """A record. `timestamp` is in milliseconds since 1970, negative when there is none.

    `flaw`: why it cannot be taken, whatever it says; such a record becomes a dead letter.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    flaw: str | None = None

    def header(self, name: str) -> bytes | None:
        """The first value under this name; None when there is none, or it is null."""
        return next((value for given, value in self.headers if given == name), None)

    def is_older_than(self, age: timedelta) -> bool:
        """By the record's own timestamp, if it has one."""
        return 0 <= self.timestamp < (time.time() - age.total_seconds()) * 1000


def fingerprint(record: Input) -> bytes:
    """SHA-256 over key and value, and nothing that differs between repeats."""
    digest = hashlib.sha256()
    for part in (record.key, record.value):
        digest.update(_NO_LENGTH if part is None else len(part).to_bytes(8, "big"))
        digest.update(part or b"")
    return digest.digest()


def coordinates(record: Input) -> str:
    """An id of the place. With the timestamp, because offsets start again when a topic is made anew."""
    return f"at:{record.topic}:{record.partition}:{record.offset}:{record.timestamp}"


def identify(record: Input, *, own_id: str | None = None, correlation_header: bytes | None = None) -> str:
    """The id by which a repeat is recognised, with its kind as prefix.

    The CloudEvents id with its source (CloudEvents 1.0: unique together), else the domain's own id, else
    `correlation_header` where the caller knows that it is unique per request, else where the record lies.
    """
    if (event_id := record.header("ce_id")) is not None:
        return _id("ce", (record.header("ce_source") or b"") + b" " + event_id)
    if own_id is not None:
        return _id("own", own_id.encode())
    if correlation_header is not None:
        return _id("correlation", correlation_header)
    return coordinates(record)


def _id(kind: str, value: bytes) -> str:
    # What PostgreSQL cannot store as text, or an index cannot hold, is still an id.
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(value) > _LONGEST_ID:
        return f"{kind}#{hashlib.sha256(value).hexdigest()}"
    return f"{kind}:{text}"
