"""Has my event gone out? `GET /messages/{message_id}`."""

import asyncio
import re
import time
from datetime import timedelta
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Request, Response, status
from pydantic import Field

from app.api import kinds, problems
from app.api.dependencies import Database, DatabaseDependency
from app.api.json_body import JsonRoute
from app.errors import NotFound
from app.outbox.whereabouts import Dead, Delivered, Discarded, Owed, Parked, Whereabouts, find
from app.settings import Settings

_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=10), timedelta(milliseconds=250)
_MOST_WAITING = 100
"""Each who waits asks the database several times a second; who comes after these is answered at once."""
_UUID_7 = 7

_APPLIED = {"description": "`wait=N`, when it was waited for.", "schema": {"type": "string"}}


def create_router(settings: Settings) -> APIRouter:
    """The route, with the limits of the settings."""
    router = APIRouter(prefix="/messages", tags=["messages"], route_class=JsonRoute)
    waiting = asyncio.BoundedSemaphore(_MOST_WAITING)
    longest = min(settings.message_wait_max, settings.api_stop_deadline)

    @router.get(
        "/{message_id}",
        responses={
            status.HTTP_200_OK: {"headers": {"Preference-Applied": _APPLIED}},
            **problems.documented(*kinds.GUARDED, kinds.NOT_FOUND, kinds.INVALID_REQUEST, kinds.UNAVAILABLE),
        },
        summary="Has it gone out?",
    )
    async def read_message(
        message_id: Annotated[UUID, Path(description="As in the header Outbox-Message-Id of the answer to a POST.")],
        database: DatabaseDependency,
        request: Request,
        response: Response,
        _documented: Annotated[
            str | None,
            Header(
                alias="Prefer",
                description="`wait=N`: answer when the message is delivered, dead or discarded, or after N seconds "
                f"(at most {longest.total_seconds():g}); RFC 7240.",
                examples=["wait=5"],
            ),
        ] = None,
    ) -> Annotated[Owed | Parked | Dead | Discarded | Delivered, Field(discriminator="state")]:
        """Where a message is on its way to Kafka: owed, parked, dead, discarded or delivered."""
        wait = min(_preferred(request.headers.getlist("prefer")), longest)
        if not wait or waiting.locked():
            found = await database.read(partial(find, message_id=message_id))
        else:
            async with waiting:
                found = await _settled(database, message_id, wait)
            response.headers["Preference-Applied"] = f"wait={wait.total_seconds():g}"
        if found is None:
            raise NotFound(_missing(message_id, settings))
        return found

    return router


async def _settled(database: Database, message_id: UUID, wait: timedelta) -> Whereabouts | None:
    """Where the message is once nothing more happens to it by itself, or after `wait`. No connection is held
    meanwhile.
    """
    over, pause = time.monotonic() + wait.total_seconds(), _FIRST_PAUSE
    while True:
        found = await database.read(partial(find, message_id=message_id))
        left = over - time.monotonic()
        if not isinstance(found, Owed | Parked) or left <= 0:
            return found
        await asyncio.sleep(min(pause.total_seconds(), left))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _preferred(values: list[str]) -> timedelta:
    """How long the caller prefers to wait. What is not understood is ignored, as RFC 7240 says."""
    for preference in ",".join(values).split(","):
        match = _WAIT.fullmatch(preference)
        if match:
            return timedelta(seconds=int(match[1]))
    return timedelta(0)


def _missing(message_id: UUID, settings: Settings) -> str:
    """What can be said of a message that is nowhere."""
    if not settings.receipts:
        return "it was never committed, or it was delivered: no receipts are kept here"
    kept = settings.receipts_retention
    if message_id.version == _UUID_7:
        age = time.time() - (message_id.int >> 80) / 1000
        if age < kept.total_seconds():
            return "it was not committed (yet)"
    return f"it was never committed, or it was delivered longer ago than receipts are kept ({kept.days} days)"
