"""Problem details (RFC 9457): every answer that is not a success. The only module that knows their statuses.

A problem never repeats what the caller sent, nor the text of a foreign exception: it names fields and limits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Scope

from app.errors import OutboxError

MEDIA_TYPE = "application/problem+json"
PREFIX = "/problems/"

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
        """The `type` of RFC 9457: a reference that resolves, or "nothing but the status"."""
        return PREFIX + self.name if self.advice else "about:blank"


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
TASK_FAILED = Kind(
    "task-failed",
    HTTPStatus.BAD_GATEWAY,
    "The task was done with, and there is no result.",
    "`code` says why. Sending the task again gets the same answer; a new `task_id` makes a new task of it.",
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
        TASK_FAILED,
        UNAVAILABLE,
    )
}


def other(status: int) -> Kind:
    """A status that only the framework gives, for a file that is asked for in a wrong way."""
    known = HTTPStatus(status)
    return Kind("other", known, known.phrase, advice="")


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
