"""Which users are accepted."""

from datetime import UTC, date, datetime

import pytest

from app.users.documents import GivenUser
from app.users.validation import Invalid, NewUser, email_key, validate

_NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
_GOOD = {"name": "Иван", "surname": "Иванов", "email": "a@example.com", "birthday": "2005-10-23"}


def _with(**changes: str | None) -> NewUser | Invalid:
    return validate(GivenUser(**{**_GOOD, **changes}), now=_NOW)  # type: ignore[arg-type]  # texts only


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2005-10-23", date(2005, 10, 23)),
        ("2005-10-23T04:00:00+03:00", date(2005, 10, 23)),
        ("2005-10-23T00:30:00+03:00", date(2005, 10, 23)),
        ("2005-10-23T23:59:59.999-14:00", date(2005, 10, 23)),
        ("2005-10-23T04:00:00", date(2005, 10, 23)),
        ("2005-10-23Z", date(2005, 10, 23)),
        ("2005-10-23+03:00", date(2005, 10, 23)),
        (" \n2005-10-23\t", date(2005, 10, 23)),
        ("2004-02-29", date(2004, 2, 29)),
        ("1900-01-01", date(1900, 1, 1)),
        ("2026-11-22", date(2026, 11, 22)),  # is today somewhere
    ],
)
def test_the_birthday_is_the_civil_date_as_written(text: str, day: date) -> None:
    user = _with(birthday=text)
    assert isinstance(user, NewUser)
    assert user.birthday == day


@pytest.mark.parametrize(
    "text",
    [
        None, "", " ", "0", "1129680000", "2005-10", "2005-13-01", "2005-02-29", "23.10.2005", "2005-10-23T04:00",
        "2005-10-23T24:00:00", "2005-10-23T25:00:00Z", "2005-10-23 04:00:00", "2005-10-23+15:00", "2005-10-23+3",
        "-0001-01-01", "12005-10-23", "1899-12-31", "2026-11-23", "9999-12-31", "２００５-10-23", "2005-10-23\u00a0",
        "2005-10-23Tx", "2005-W43-7",
    ],
)  # fmt: skip
def test_what_is_no_birthday(text: str | None) -> None:
    assert _with(birthday=text) == Invalid(("birthday",))


@pytest.mark.parametrize(
    "text",
    ["a@example.com", "ivan.ivanov.2023.2024@yandex.com", "A+b@sub.Example.COM", " a@example.com\n", "o'x@example.com",
     "a@xn--e1afmkfd.xn--p1ai", "x" * 64 + "@example.com"],
)  # fmt: skip
def test_emails(text: str) -> None:
    user = _with(email=text)
    assert isinstance(user, NewUser)
    assert user.email == text.strip()
    assert user.email_key == email_key(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        None, "", "a", "@", "a@", "@example.com", "a@b", "a@localhost", "a@@example.com", "a b@example.com",
        "Name <a@example.com>", '"a"@example.com', "a@[127.0.0.1]", "a@1.2.3.4", "a..b@example.com", "a@example..com",
        "a@exa_mple.com", "a@-example.com", "x" * 65 + "@example.com", "a@" + "x" * 250 + ".com", "а@example.com",
        "a@пример.рф", "ａ@example.com", "a\u200b@example.com", "a@example.com\r\nBcc: b@example.com",
        "a@x.com,b@x.com", "\u212a@example.com", "a@example.com\u0000",
    ],
)  # fmt: skip
def test_what_is_no_email(text: str | None) -> None:
    assert _with(email=text) == Invalid(("email",))


@pytest.mark.parametrize(
    "text", ["x", "x" * 100, "😀" * 100, "  Анна Мария ", "\u202eabc", "a\u200bb", "<b>", "Zo\u0308e", "&"]
)
def test_names(text: str) -> None:
    user = _with(name=text, surname=text)
    assert isinstance(user, NewUser)
    assert user.name == user.surname == text.strip()


@pytest.mark.parametrize("text", [None, "", " \t\r\n", "x" * 101, "Z" + "\u0301" * 10_000])
def test_what_is_no_name(text: str | None) -> None:
    assert _with(name=text) == Invalid(("name",))
    assert _with(surname=text, email="no") == Invalid(("surname", "email"))


def test_what_a_user_must_not_have() -> None:
    assert validate(GivenUser(**_GOOD, unexpected=("other", "email")), now=_NOW) == Invalid(("email", "other"))
