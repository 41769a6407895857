"""What requests and replies say, whatever they are written in."""

from dataclasses import dataclass
from enum import StrEnum

FIELDS = ("name", "surname", "email", "birthday")
"""What is asked for of a user, in the order of the reply."""


class Reason(StrEnum):
    """Why bytes are not a request."""

    EMPTY = "EMPTY"
    TOO_LARGE = "TOO_LARGE"
    TOO_DEEP = "TOO_DEEP"
    TOO_MANY_ELEMENTS = "TOO_MANY_ELEMENTS"
    TOO_MANY_ATTRIBUTES = "TOO_MANY_ATTRIBUTES"
    TOO_MANY_USERS = "TOO_MANY_USERS"
    UNSUPPORTED_ENCODING = "UNSUPPORTED_ENCODING"
    NOT_XML = "NOT_XML"
    DTD_FORBIDDEN = "DTD_FORBIDDEN"
    COMMENT_FORBIDDEN = "COMMENT_FORBIDDEN"
    PI_FORBIDDEN = "PI_FORBIDDEN"
    NOT_A_REQUEST = "NOT_A_REQUEST"
    UNEXPECTED_CONTENT = "UNEXPECTED_CONTENT"
    NO_USERS = "NO_USERS"


@dataclass(frozen=True, slots=True)
class GivenUser:
    """A user as requested: the text of each element, verbatim; None where there was no such element.

    `unexpected` names what a user must not have: elements that are unknown, or fields given twice (the first counts).
    """

    name: str | None = None
    surname: str | None = None
    email: str | None = None
    birthday: str | None = None
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """The users of one request, at least one, in their order."""

    users: tuple[GivenUser, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes that are not a request."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Saved:
    """The user is stored under this id."""

    id: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The user was not stored. What was given is echoed; nothing where nothing could be read."""

    given: GivenUser = GivenUser()


Result = Saved | Failed


class Refused(Exception):
    """Ends the reading of a document that is not a request; it does not leave the reader."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
