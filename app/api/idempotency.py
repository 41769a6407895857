"""Doing the work of a request once per `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07).

The key, the answer, the rows and the messages are one commit, so a repeat finds either all of them or nothing. What
fails is not stored: its repeat is done anew.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response
from sqlalchemy import Interval, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import failpoints, metrics
from app.api.dependencies import Database, DatabaseDependency
from app.api.group_commit import GroupCommit
from app.api.kinds import IDEMPOTENCY_KEY_INVALID, IDEMPOTENCY_KEY_REQUIRED, IDEMPOTENCY_KEY_REUSED, IN_PROGRESS
from app.api.problems import Refused
from app.outbox.models import idempotency_keys as keys

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
ANONYMOUS = "anonymous"
"""The caller, where no API keys are configured. Not the client's address: it may change between a request and its
repeat, and the repeat would then have an effect of its own."""
LOCK_NAMESPACE = 1869968501
"""First half of the advisory lock of a key; the outbox's own is another."""

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-~][!-~]*")
_LONGEST = 255

# Never waits: a repeat that meets the first request still running is told so at once. On the unique index it would
# wait for the other's commit, with a connection in hand.
_TRY_LOCK = text(
    "SELECT pg_try_advisory_xact_lock(CAST(:namespace AS integer), "
    "CAST(hashtextextended(:identity, 8513) >> 32 AS integer))"
)

# The answer that is kept for a key. A statement of its own, after the lock: the snapshot of one that also takes the
# lock may be older than the commit of whoever held it, and would miss the answer.
_FIND = select(keys.c.fingerprint, keys.c.status, keys.c.headers, keys.c.body).where(
    keys.c.scope == bindparam("scope"),
    keys.c.key == bindparam("key"),
    keys.c.expires_at > func.clock_timestamp(),
)

# Keeps the answer. Only a row that has expired can be there: whoever gets here holds the key's lock and found none.
_NEW = insert(keys).values(expires_at=func.clock_timestamp() + bindparam("ttl", type_=Interval()))
_KEEP = _NEW.on_conflict_do_update(
    index_elements=[keys.c.scope, keys.c.key],
    set_={name: _NEW.excluded[name] for name in ("fingerprint", "status", "headers", "body", "expires_at")},
    where=keys.c.expires_at <= func.clock_timestamp(),
).returning(keys.c.key)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with, and each repeat of it, byte for byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The work was done by this request."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Replayed:
    """An earlier request did it."""

    answer: Answer


_Piece = TypeVar("_Piece")

Work = Callable[[AsyncSession], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two requests the same: who asks for what (`scope`), the caller's key, the body (its SHA-256)."""

    scope: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Once:
    """Does the work of one request; without an identity each repeat is done anew. Keys are new again after `ttl`."""

    database: Database
    identity: Identity | None
    ttl: timedelta

    async def write(self, work: Work) -> Response:
        """Do `work` in one transaction, or give the answer of the request that did it before.

        Raises Refused when the key was used with another body, or while the first request still runs.
        """
        identity = self.identity
        if identity is None:
            return _response(Done(await self.database.write(work)))

        async def once(session: AsyncSession) -> Done | Replayed:
            kept = await _find(session, identity)
            if kept is not None:
                return Replayed(kept)
            await failpoints.reach("api.before_domain")
            answer = await work(session)
            await failpoints.reach("api.after_outbox")
            await _keep(session, identity, answer, self.ttl)
            await failpoints.reach("api.before_commit")
            return Done(answer)

        return _response(await self.database.write(once))

    async def write_grouped(self, group: GroupCommit[_Piece, Answer], piece: _Piece) -> Response:
        """`write` of one piece of a work; without an identity it shares its transaction with others that come now."""
        if self.identity is None:
            return _response(Done(await group.do(self.database, piece)))
        return await self.write(partial(group.alone, piece))


async def _find(session: AsyncSession, identity: Identity) -> Answer | None:
    """The answer kept for this request, if there is one. From here to the end of the transaction no other has its
    key.
    """
    locked = await session.scalar(
        _TRY_LOCK, {"namespace": LOCK_NAMESPACE, "identity": f"{identity.scope}\n{identity.key}"}
    )
    if not locked:
        metrics.idempotency_conflicts.labels("in_progress").inc()
        raise Refused(IN_PROGRESS, headers={"Retry-After": "1"})
    row = (await session.execute(_FIND, {"scope": identity.scope, "key": identity.key})).one_or_none()
    if row is None:
        return None
    if row.fingerprint != identity.fingerprint:
        metrics.idempotency_conflicts.labels("reused").inc()
        raise Refused(IDEMPOTENCY_KEY_REUSED)
    return Answer(row.status, row.headers, row.body)


async def _keep(session: AsyncSession, identity: Identity, answer: Answer, ttl: timedelta) -> None:
    kept = await session.execute(
        _KEEP,
        {
            "scope": identity.scope,
            "key": identity.key,
            "fingerprint": identity.fingerprint,
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": answer.body,
            "ttl": ttl,
        },
    )
    kept.one()  # or the work would be committed without its key


def _response(outcome: Done | Replayed) -> Response:
    headers = dict(outcome.answer.headers)
    if isinstance(outcome, Replayed):
        metrics.idempotency_replays.inc()
        headers[REPLAYED] = "true"
    return Response(outcome.answer.body, status_code=outcome.answer.status, headers=headers)


def accept(values: list[str]) -> str | None:
    """The key in the header's values; None without one. Quoted (a string of RFC 8941) and bare it is the same key.

    Raises Refused.
    """
    if not values:
        return None
    if len(values) > 1:
        raise Refused(IDEMPOTENCY_KEY_INVALID, "it must be sent once")
    value = values[0].strip(" \t")
    quoted = _QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if not key or not (quoted or _BARE.fullmatch(value)):
        raise Refused(IDEMPOTENCY_KEY_INVALID, "it must be visible ASCII, and not empty")
    if len(key) > _LONGEST:
        raise Refused(IDEMPOTENCY_KEY_INVALID, f"it must not be longer than {_LONGEST} characters")
    return key


async def _once(
    request: Request,
    database: DatabaseDependency,
    _documented: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description="A random name for what is to be done, the same in each repeat of the request: the effect "
            "comes once, and repeats get the first answer. Quoted or bare.",
            json_schema_extra={"minLength": 1, "maxLength": _LONGEST, "pattern": "^[!#-~][!-~]*$"},
            examples=["5f0c6a3e-8a53-4c52-9d11-0b6f8a2b9d3e"],
        ),
    ] = None,
) -> Once:
    settings = request.app.state.settings
    key = accept(request.headers.getlist(HEADER))
    if key is None:
        if settings.idempotency_key_required:
            raise Refused(IDEMPOTENCY_KEY_REQUIRED)
        return Once(database, None, settings.idempotency_ttl)
    # The operation, not the path, which has several spellings.
    caller, operation = getattr(request.state, "caller", ANONYMOUS), request.scope["route"].name
    fingerprint = hashlib.sha256(await request.body()).digest()
    return Once(database, Identity(f"{operation} {caller}", key, fingerprint), settings.idempotency_ttl)


OnceDependency = Annotated[Once, Depends(_once)]
