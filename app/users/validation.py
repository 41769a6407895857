"""Which users are accepted: what each field must be, apart from how requests are written."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from email_validator import EmailNotValidError, validate_email

from app.users.documents import FIELDS, GivenUser

NAME_MAX_LENGTH = 100
"""Characters of a name or surname."""
EMAIL_MAX_LENGTH = 254
"""Bytes of an email (RFC 5321, erratum 1690)."""
FIRST_BIRTHDAY = date(1900, 1, 1)

_SPACE = " \t\r\n"  # what XML takes for space
# xs:date or xs:dateTime; only the civil date is of interest. [0-9], because \d takes digits of all scripts.
_BIRTHDAY = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})(?:T(?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?)?"
    r"(?P<zone>Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)?"
)
# The last place on earth to begin a day is 14 hours ahead.
_AHEAD = timedelta(hours=14)


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user that may be stored. `email_key` is what emails are compared by."""

    name: str
    surname: str
    email: str
    email_key: str
    birthday: date


@dataclass(frozen=True, slots=True)
class Invalid:
    """A user that may not. `fields` are those at fault, in the order of `documents.FIELDS`."""

    fields: tuple[str, ...]


def validate(given: GivenUser, *, now: datetime | None = None) -> NewUser | Invalid:
    """The user as it may be stored, without space around the values; or what is wrong with it."""
    name, surname = _name(given.name), _name(given.surname)
    email, birthday = _email(given.email), _birthday(given.birthday, now or datetime.now(UTC))
    if name is None or surname is None or email is None or birthday is None or given.unexpected:
        values = (name, surname, email, birthday)
        wrong = {field for field, value in zip(FIELDS, values, strict=True) if value is None} | set(given.unexpected)
        return Invalid(tuple(sorted(wrong, key=(*FIELDS, "other").index)))
    return NewUser(name, surname, email, email_key(email), birthday)


def email_key(email: str) -> str:
    """Two emails are one if their keys are equal: case is ignored, in the local part too, as mail providers do."""
    return email.lower()


def _name(text: str | None) -> str | None:
    name = (text or "").strip(_SPACE)
    return name if 0 < len(name) <= NAME_MAX_LENGTH else None


def _email(text: str | None) -> str | None:
    email = (text or "").strip(_SPACE)
    if not email.isascii() or not 0 < len(email) <= EMAIL_MAX_LENGTH:
        return None
    try:
        validate_email(
            email,
            check_deliverability=False,
            strict=True,  # 64 characters before the @
            allow_smtputf8=False,
            allow_quoted_local=False,
            allow_domain_literal=False,
            allow_display_name=False,
        )
    except EmailNotValidError:
        return None
    return email


def _birthday(text: str | None, now: datetime) -> date | None:
    """The civil date as written, in its own offset: converting it to another could move it to the day before."""
    match = _BIRTHDAY.fullmatch((text or "").strip(_SPACE))
    if match is None:
        return None
    try:
        day = date.fromisoformat(match["day"])
        if match["time"]:
            time.fromisoformat(match["time"])
    except ValueError:
        return None
    return day if FIRST_BIRTHDAY <= day <= (now + _AHEAD).date() else None
