"""A fake of Dadata's cleaner: its wire format, its errors, and good guesses about phones and emails."""

import json
import re
from typing import Any

from app.fakes.http import Drop, Request, Response
from app.fakes.script import Script

PATH = "/api/v1/clean/"
_DISPOSABLE = {"mailinator.com", "temp-mail.org", "10minutemail.com"}
_ROLES = {"info", "sales", "support", "admin"}
_PERSONAL = {"yandex.ru", "mail.ru", "gmail.com", "ya.ru"}
_PHONE_FIELDS = (
    *("type", "phone", "country_code", "city_code", "number", "extension", "provider", "country", "region", "city"),
    *("timezone", "qc_conflict"),
)
_EMAIL = re.compile(r"[a-z0-9._%+-]+@[a-z0-9-]+(\.[a-z0-9-]+)+")


async def answer(script: Script, request: Request) -> Response:
    """Clean one value, or fail as told."""
    fault = script.next_fault()
    kind = request.path.removeprefix(PATH)
    try:
        (text,) = json.loads(request.body)
    except ValueError:
        return _error(400, request, "CLIENT_ERROR", "Bad Request")
    if kind not in ("phone", "email") or request.method != "POST" or not isinstance(text, str):
        return _error(405 if request.method != "POST" else 400, request, "CLIENT_ERROR", "Bad Request")
    if fault is None or fault.billed:
        script.bill(text)
    await script.take_time()
    if fault is None:
        record = phone(text) if kind == "phone" else email(text)
        return Response(200, json.dumps([record], ensure_ascii=False).encode())
    if fault.answer is not None:
        return Response(fault.status or 200, fault.answer.encode())
    if fault.status == 0:
        raise Drop
    family = "SERVER_ERROR" if fault.status >= 500 else "CLIENT_ERROR"  # noqa: PLR2004 - the class of HTTP's statuses
    headers = () if fault.retry_after is None else (("retry-after", fault.retry_after),)
    return _error(fault.status, request, family, fault.message, headers)


def _error(
    status: int, request: Request, family: str, reason: str, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """Like the real one, it repeats the caller's key in the text."""
    token = request.headers.get("authorization", "")
    body = {"family": family, "reason": reason or "Forbidden", "message": f"Feature 'CLEAN' disabled for '{token}'"}
    return Response(status, json.dumps(body).encode(), headers)


def phone(text: str) -> dict[str, Any]:
    """The record of a phone."""
    main, _, extension = text.partition("*")
    digits = re.sub(r"\D", "", main)
    if len(digits) == 10:  # noqa: PLR2004 - a Russian number without its country
        digits = "7" + digits
    record: dict[str, Any] = dict.fromkeys(_PHONE_FIELDS)
    record["source"] = text
    if not digits:
        return record | {"type": "Неизвестный", "qc": 2}
    if re.fullmatch(r"[78]\d{10}", digits):
        city, number = digits[1:4], digits[4:]
        extension = re.sub(r"\D", "", extension)
        shown = f"+7 {city} {number[:3]}-{number[3:5]}-{number[5:]}" + (f" доб. {extension}" if extension else "")
        return record | {
            "type": "Мобильный" if city.startswith("9") else "Стационарный",
            "phone": shown,
            "country_code": "7",
            "city_code": city,
            "number": number,
            "extension": extension or None,
            "country": "Россия",
            "timezone": "UTC+3",
            "qc_conflict": 0,
            "qc": 0,
        }
    if 11 <= len(digits) <= 15:  # noqa: PLR2004 - ITU-T E.164
        return record | {"type": "Неизвестный", "phone": "+" + digits, "qc": 7}
    return record | {"type": "Неизвестный", "qc": 1}


def email(text: str) -> dict[str, Any]:
    """The record of an email."""
    record: dict[str, Any] = {"source": text, "email": None, "local": None, "domain": None, "type": None}
    plain = text.strip().lower()
    mended = plain.replace("/", ".").replace(",", ".").replace(" ", "")
    if not plain or not re.search(r"[a-zа-я0-9]", plain):
        return record | {"qc": 2}
    if not _EMAIL.fullmatch(mended):
        return record | {"qc": 1}
    local, _, domain = mended.partition("@")
    disposable = domain in _DISPOSABLE
    kind = (
        "DISPOSABLE"
        if disposable
        else "ROLE"
        if local in _ROLES
        else "PERSONAL"
        if domain in _PERSONAL
        else "CORPORATE"
    )
    qc = 4 if mended != plain else 3 if disposable else 0
    return record | {"email": mended, "local": local, "domain": domain, "type": kind, "qc": qc}
