"""The kinds of problems that callers meet (RFC 9457): name, status, and what to do about it.

Only this module knows statuses; `docs/errors.md` and `/problems/NAME` are made of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

PREFIX = "/problems/"


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
IDEMPOTENCY_KEY_INVALID = Kind(
    "idempotency-key-invalid",
    HTTPStatus.BAD_REQUEST,
    "The header Idempotency-Key is not one that is accepted here.",
    "Send it once, with 1 to 255 visible ASCII characters, in double quotes or without; a random UUID is best.",
)
IDEMPOTENCY_KEY_REQUIRED = Kind(
    "idempotency-key-required",
    HTTPStatus.BAD_REQUEST,
    "The header Idempotency-Key is required here.",
    "Choose a random UUID for what you want done, and send the same one with each repeat of it.",
)
HOST_REFUSED = Kind(
    "host-refused",
    HTTPStatus.BAD_REQUEST,
    "The header Host does not name this service.",
    "Send it once, with the name under which the service is known. The operator lists the names in ALLOWED_HOSTS.",
)
UNAUTHENTICATED = Kind(
    "unauthenticated",
    HTTPStatus.UNAUTHORIZED,
    "A valid API key is needed.",
    "Send it as Authorization: Bearer KEY, or in the header X-API-Key.",
)
FORBIDDEN = Kind(
    "forbidden",
    HTTPStatus.FORBIDDEN,
    "This API key does not allow that.",
    "The operator gives a key the scopes read, write and admin.",
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
IN_PROGRESS = Kind(
    "in-progress",
    HTTPStatus.CONFLICT,
    "The first request with this Idempotency-Key is still running.",
    "Repeat the request after the seconds in Retry-After; then its answer is there.",
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
IDEMPOTENCY_KEY_REUSED = Kind(
    "idempotency-key-reused",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "This Idempotency-Key was used for a request with another body.",
    "Choose a new key for what is to be done anew; repeat a request with the same body.",
)
TOO_SLOW = Kind(
    "too-slow",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "Finding that takes longer than it may.",
    "Ask for less: the beginning of a name instead of a part, a name, or a range of time. The operator can make parts "
    "of names fast with `outbox search-index`.",
)
RATE_LIMITED = Kind(
    "rate-limited",
    HTTPStatus.TOO_MANY_REQUESTS,
    "There were too many requests from you.",
    "Nothing was done. Repeat the request after the seconds in Retry-After; RateLimit-Policy says how many may come.",
)
HEADERS_TOO_LARGE = Kind(
    "headers-too-large",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "The head of the request is too large.",
    "Path, query and headers together may have 32 KiB.",
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
OVERLOADED = Kind(
    "overloaded",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The service has as much to do as it can.",
    "Nothing was done. Repeat the request after the seconds in Retry-After.",
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        MALFORMED_REQUEST,
        IDEMPOTENCY_KEY_INVALID,
        IDEMPOTENCY_KEY_REQUIRED,
        HOST_REFUSED,
        UNAUTHENTICATED,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        CONFLICT,
        IN_PROGRESS,
        BODY_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INVALID_REQUEST,
        IDEMPOTENCY_KEY_REUSED,
        TOO_SLOW,
        RATE_LIMITED,
        HEADERS_TOO_LARGE,
        UNEXPECTED,
        TASK_FAILED,
        UNAVAILABLE,
        OVERLOADED,
    )
}

GUARDED = (HOST_REFUSED, UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, HEADERS_TOO_LARGE, UNEXPECTED, OVERLOADED)
"""What any route of the API may answer besides its own."""


def other(status: int) -> Kind:
    """A status that only the framework gives, for a file that is asked for in a wrong way."""
    known = HTTPStatus(status)
    return Kind("other", known, known.phrase, advice="")
