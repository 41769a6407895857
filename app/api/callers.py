"""Who asks, where API keys are configured. Only their hashes are kept, here and in the settings."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import SecretStr
from starlette.datastructures import Headers

from app.errors import ConfigurationError

_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):([a-z+]+):([0-9a-f]{64})")
_LONGEST = 512
"""Longest key that is looked at."""
_PREFIX = "outbox_"  # lets scanners of leaked secrets recognise it


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Several keys may have one name, so that a key can be replaced while both are valid."""

    name: str
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller and the SHA-256 of its key, which has too many random bits to be guessed from it."""

    caller: Caller
    digest: bytes = field(repr=False)


def parse(setting: SecretStr | None) -> tuple[ApiKey, ...]:
    """The keys of API_KEYS: `NAME:SCOPE+SCOPE:SHA256,…`. Raises ConfigurationError, which repeats nothing of it."""
    keys = []
    entries = [] if setting is None else [part.strip() for part in setting.get_secret_value().split(",")]
    for number, entry in enumerate(filter(None, entries), start=1):
        match = _ENTRY.fullmatch(entry)
        scopes = match[2].split("+") if match else []
        if match is None or not set(scopes) <= set(Scope):
            raise ConfigurationError(
                f"API_KEYS: entry {number} is not like NAME:read+write:SHA256, with scopes of read, write and admin; "
                "`outbox api-key NAME` makes one"
            )
        caller = Caller(match[1], frozenset(Scope(scope) for scope in scopes))
        keys.append(ApiKey(caller, bytes.fromhex(match[3])))
    return tuple(keys)


def create() -> tuple[str, str]:
    """A new key, and its hash for API_KEYS."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def presented(headers: Headers) -> str | None:
    """The key that came with the request, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; None without exactly
    one.
    """
    given = headers.getlist("authorization"), headers.getlist("x-api-key")
    match given:
        case [[authorization], []]:
            scheme, _, key = authorization.partition(" ")
            return key.strip() if scheme.lower() == "bearer" else None
        case [[], [key]]:
            return key
        case _:
            return None


def authenticate(keys: Sequence[ApiKey], key: str | None) -> Caller | None:
    """Whose key this is. Takes the same time for each key that is none."""
    digest = hashlib.sha256((key or "")[:_LONGEST].encode()).digest()
    found = None
    for each in keys:
        if hmac.compare_digest(each.digest, digest):
            found = each.caller
    return found
