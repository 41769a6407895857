"""Problem details (RFC 9457): every answer that is not a success. Which ones there are is in `app.api.kinds`.

A problem never repeats what the caller sent, nor the text of a foreign exception: it names fields and limits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Scope

from app.api.kinds import Kind
from app.errors import OutboxError

MEDIA_TYPE = "application/problem+json"

# A field's name comes from the caller when it is one that we do not know.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


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

    def __init__(
        self,
        kind: Kind,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or kind.title)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers


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
    """These problems as `responses` of a route, for OpenAPI; one status may stand for several."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status.value, []).append(kind)
    return {
        status: {
            "description": " ".join(kind.title for kind in same),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {kind.name: {"value": _example(kind)} for kind in same},
                }
            },
        }
        for status, same in by_status.items()
    }


def _example(kind: Kind) -> dict[str, Any]:
    return {"type": kind.type, "title": kind.title, "status": kind.status.value, "reference": "5b1f0c2e9a7d4c53"}
