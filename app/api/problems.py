"""Problem details (RFC 9457): every answer that is not a success. The only module that knows their statuses.

A problem never repeats what the caller sent, nor the text of a foreign exception: it names fields and limits.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from app.errors import Conflict, InvalidMessage, NotFound, OutboxError, Unavailable

MEDIA_TYPE = "application/problem+json"
PREFIX = "/problems/"

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# A field's name comes from the caller when it is one that we do not know.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. Its `type` is `/problems/NAME`, where `advice` can be read."""

    name: str
    status: HTTPStatus
    title: str
    advice: str

    @property
    def type(self) -> str:
        """The `type` of RFC 9457: a reference that resolves."""
        return PREFIX + self.name


MALFORMED_REQUEST = Kind(
    "malformed-request",
    HTTPStatus.BAD_REQUEST,
    "The body is not the JSON that is accepted here.",
    "Send one JSON value in UTF-8, without byte order mark, repeated names, NaN or Infinity. Repeating the "
    "request as it is will not help.",
)
NOT_FOUND = Kind(
    "not-found",
    HTTPStatus.NOT_FOUND,
    "There is nothing here.",
    "Check the path and the id.",
)
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "This path does not take this method.",
    "The header Allow names the methods that it takes.",
)
CONFLICT = Kind(
    "conflict",
    HTTPStatus.CONFLICT,
    "The present state does not allow this.",
    "Read the state, then decide again.",
)
BODY_TOO_LARGE = Kind(
    "body-too-large",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The body is too large.",
    "The operator sets the limit with MAX_BODY_SIZE.",
)
UNSUPPORTED_MEDIA_TYPE = Kind(
    "unsupported-media-type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "The body is of a type that is not accepted here.",
    "Send Content-Type: application/json, in UTF-8, and no Content-Encoding.",
)
INVALID_REQUEST = Kind(
    "invalid-request",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The request is understood, but its content cannot be accepted.",
    "Each entry of `errors` names a field and says what is wrong with it. Repeating the request as it is "
    "will not help.",
)
UNEXPECTED = Kind(
    "unexpected",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Something went wrong here.",
    "Whether the request had an effect is unknown. Tell the operator the `reference`: the log has it.",
)
UNAVAILABLE = Kind(
    "unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The service cannot do this at the moment.",
    "Nothing is wrong with the request. Whether it had an effect is unknown; repeat it after the seconds in "
    "Retry-After.",
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        MALFORMED_REQUEST,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        CONFLICT,
        BODY_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INVALID_REQUEST,
        UNEXPECTED,
        UNAVAILABLE,
    )
}
# In words of HTTP and JSON instead of pydantic's.
_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_attributes_type": "must be an object",
}
_BY_STATUS = {kind.status.value: kind for kind in KINDS.values()}


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field, or, when `field` is empty, with all of `place`: body, query, path or
    header.
    """

    place: str
    field: str
    message: str


class Refused(OutboxError):
    """The request cannot be accepted, for what it is."""

    def __init__(self, kind: Kind, detail: str | None = None, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail or kind.title)
        self.kind = kind
        self.detail = detail
        self.errors = errors


def answer(
    scope: Scope,
    kind: Kind,
    detail: str | None = None,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """The problem as an answer to the request of `scope`. Its `reference` is the request's id."""
    content: dict[str, Any] = {"type": kind.type, "title": kind.title, "status": kind.status.value}
    if detail is not None:
        content["detail"] = detail
    if errors:
        content["errors"] = [
            {"in": error.place} | ({"field": error.field} if error.field else {}) | {"message": error.message}
            for error in errors
        ]
    content["reference"] = scope.get("state", {}).get("request_id")
    return JSONResponse(
        content | dict(extensions or {}), status_code=kind.status.value, headers=headers, media_type=MEDIA_TYPE
    )


def field_path(location: Sequence[str | int]) -> str:
    """`items.0.name`: where in the body or which parameter. A name that is not a plain word is not
    repeated.
    """
    return ".".join(
        str(part) if isinstance(part, int) or _NAME.fullmatch(part) else "(a name not shown here)" for part in location
    )


async def _refused(request: Request, error: Refused) -> JSONResponse:
    return answer(request.scope, error.kind, error.detail, errors=error.errors)


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
        status = HTTPStatus(error.status_code)
        kind = Kind("other", status, status.phrase, "")
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
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)

    @app.get(PREFIX + "{name}", include_in_schema=False)
    async def problem(name: str) -> dict[str, Any]:
        kind = KINDS.get(name)
        if kind is None:
            raise NotFound("there is no problem of this name")
        return {"type": kind.type, "title": kind.title, "status": kind.status.value, "advice": kind.advice}


# ------------------------------------------------------------------------------------------- OpenAPI

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "reference"],
    "properties": {
        "type": {"type": "string", "description": "The kind of problem; the path explains it."},
        "title": {"type": "string", "description": "The kind of problem in a sentence."},
        "status": {"type": "integer", "description": "The status of the answer."},
        "detail": {"type": "string", "description": "What happened in this case."},
        "errors": {
            "type": "array",
            "description": "What is wrong with which field; never what was sent.",
            "items": {
                "type": "object",
                "required": ["in", "message"],
                "properties": {
                    "in": {"type": "string", "examples": ["body", "query", "path"]},
                    "field": {"type": "string", "examples": ["user_name"]},
                    "message": {"type": "string"},
                },
            },
        },
        "reference": {
            "type": "string",
            "description": "The request's id, as in the header X-Request-Id and the log.",
        },
    },
}


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """These problems as `responses` of a route, for OpenAPI."""
    return {
        kind.status.value: {
            "description": kind.title,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": kind.type,
                        "title": kind.title,
                        "status": kind.status.value,
                        "reference": "5b1f0c2e9a7d4c53",
                    },
                }
            },
        }
        for kind in kinds
    }
