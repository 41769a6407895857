"""What becomes of each exception: the one place where errors turn into problems."""

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.kinds import (
    CONFLICT,
    INVALID_REQUEST,
    KINDS,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    PREFIX,
    TOO_SLOW,
    UNAVAILABLE,
    Kind,
    other,
)
from app.api.problems import FieldError, Refused, answer, field_path
from app.errors import Conflict, InvalidMessage, NotFound, OutboxError, TooSlow, Unavailable

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# In words of HTTP and JSON instead of pydantic's.
_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_attributes_type": "must be an object",
}
# The first kind of each status is the general one.
_BY_STATUS = {kind.status.value: kind for kind in reversed(list(KINDS.values()))}


async def _refused(request: Request, error: Refused) -> JSONResponse:
    return answer(request.scope, error.kind, error.detail, errors=error.errors, headers=error.headers)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [
        FieldError(str(place), field_path(path), _MESSAGES.get(each["type"], each["msg"]))
        for each in error.errors()
        for place, *path in (each["loc"],)
    ]
    return answer(request.scope, INVALID_REQUEST, errors=errors)


async def _unavailable(request: Request, error: Unavailable) -> JSONResponse:
    seconds = max(1, math.ceil(error.retry_after.total_seconds()))
    return answer(request.scope, UNAVAILABLE, str(error), headers={"Retry-After": str(seconds)})


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    """What the framework itself answers: unknown path, wrong method, a file that is not there."""
    kind = _BY_STATUS.get(error.status_code)
    if kind is None:
        kind = other(error.status_code)
    headers = dict(error.headers or {})
    if kind is METHOD_NOT_ALLOWED:
        # The framework names only the methods of the first route of this path.
        headers["Allow"] = ", ".join(method for method in _METHODS if _takes(request, method))
    return answer(request.scope, kind, headers=headers)


def _takes(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem, and let each `type` be read."""

    def says(kind: Kind) -> Any:
        async def handler(request: Request, error: OutboxError) -> JSONResponse:
            return answer(request.scope, kind, str(error))

        return handler

    handlers: dict[type[Exception], Any] = {
        Refused: _refused,
        RequestValidationError: _invalid,
        HTTPException: _http,
        Unavailable: _unavailable,
        NotFound: says(NOT_FOUND),
        Conflict: says(CONFLICT),
        InvalidMessage: says(INVALID_REQUEST),
        TooSlow: says(TOO_SLOW),
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)

    @app.get(PREFIX + "{name}", include_in_schema=False)
    async def problem(name: str) -> dict[str, Any]:
        kind = KINDS.get(name)
        if kind is None:
            raise NotFound("there is no problem of this name")
        return {"type": kind.type, "title": kind.title, "status": kind.status.value, "advice": kind.advice}
