"""Fingerprints of many records at once: those of `app.outbox.fingerprint`, without a call of ours for each record."""

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from app.outbox.fingerprint import content_hash, key_hash


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
