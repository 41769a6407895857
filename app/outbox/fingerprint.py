"""The fingerprint of what a message carries: 64 bits of key and payload, kept with its receipt.

XXH3 of the payload, seeded with that of the key. An absent key or payload counts as its own value, not as an empty
one. Written by the relay, checked by the auditor; changing it would make all receipts that are kept look wrong.
"""

from collections.abc import Sequence
from typing import Protocol

from xxhash import xxh3_64_intdigest

NO_KEY = 1
"""Stands for the hash of an absent key."""


class Content(Protocol):
    """What a message or a record carries."""

    @property
    def key(self) -> bytes | None:
        """Kafka's key."""

    @property
    def payload(self) -> bytes | None:
        """Kafka's value."""


def fingerprint(message: Content) -> int:
    """The fingerprint, signed as PostgreSQL's bigint."""
    return fingerprints([message.key], [message.payload])[0]


def key_hash(key: bytes | None) -> int:
    """64 bits of the key, unsigned; with `content_hash` the fingerprint in two steps, for whoever needs both."""
    return NO_KEY if key is None else xxh3_64_intdigest(key)


def content_hash(hashed_key: int, payload: bytes | None) -> int:
    """The fingerprint, unsigned, of a payload whose key hashes to this."""
    return hashed_key ^ 1 if payload is None else xxh3_64_intdigest(payload, hashed_key)


# The same of many at once, without a call of ours for each: a hash is had faster than a function of Python is called.


def fingerprints(keys: Sequence[bytes | None], payloads: Sequence[bytes | None]) -> list[int]:
    """`fingerprint` of each message with such a key and such a payload."""
    return [value - (1 << 64) if value >= 1 << 63 else value for value in content_hashes(key_hashes(keys), payloads)]


def key_hashes(keys: Sequence[bytes | None]) -> list[int]:
    """`key_hash` of each."""
    try:
        return list(map(xxh3_64_intdigest, keys))  # type: ignore[arg-type]  # raises TypeError at None
    except TypeError:
        return list(map(key_hash, keys))


def content_hashes(hashed_keys: Sequence[int], payloads: Sequence[bytes | None]) -> list[int]:
    """`content_hash` of each."""
    try:
        return list(map(xxh3_64_intdigest, payloads, hashed_keys))  # type: ignore[arg-type]  # raises TypeError at None
    except TypeError:
        return list(map(content_hash, hashed_keys, payloads))
