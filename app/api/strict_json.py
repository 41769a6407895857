"""Reading JSON from strangers: what every reader understands the same way, and what PostgreSQL can store.

RFC 8259 leaves open what repeated names, a byte order mark, huge numbers or lone surrogates mean, and
Python's reader takes NaN and Infinity, which are not JSON at all.
"""

import json
import math
from collections import Counter
from operator import itemgetter
from typing import Any, NoReturn

MAX_DEPTH = 32
"""Deepest nesting of arrays and objects."""
MAX_DIGITS = 40
"""Most characters of a number. Reading one costs time that grows with the square of its length."""

Path = tuple[str | int, ...]


class NotJson(ValueError):
    """The bytes are not JSON that is accepted here. The text says why, and repeats nothing of them.

    `name` is the name in an object that it is about, if it is about one.
    """

    def __init__(self, message: str, *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class NotStorable(ValueError):
    """The value at `path` is text that cannot be stored, or a number that is out of range."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def parse(document: bytes) -> Any:
    """The value of a JSON document. Raises NotJson and NotStorable."""
    try:
        text = document.decode()
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON, at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise NotJson(_TOO_DEEP) from None
    _inspect(value)
    return value


_TOO_DEEP = f"arrays and objects are nested more than {MAX_DEPTH} deep"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = max(Counter(name for name, _ in pairs).items(), key=itemgetter(1))[0]
        raise NotJson("an object has a name twice", name=twice)
    return result


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise NotJson(f"a number is longer than {MAX_DIGITS} characters")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise NotJson(f"a number is longer than {MAX_DIGITS} characters")
    return float(digits)  # infinite, if it is out of range: JSON (RFC 8259, 6) knows no limit, we do


def _constant(_name: str) -> NoReturn:
    raise NotJson("NaN and Infinity are not JSON")


def _inspect(document: Any) -> None:
    """Walk the value, with a list instead of recursion."""
    pending: list[tuple[Path, Any]] = [((), document)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, str):
            _check_text(path, value)
        elif isinstance(value, float):
            _check_range(path, value)
        elif isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                raise NotJson(_TOO_DEEP)
            items = enumerate(value) if isinstance(value, list) else value.items()
            for name, item in items:
                if isinstance(name, str):
                    _check_text((*path, name), name)
                if isinstance(item, str | float | dict | list):
                    pending.append(((*path, name), item))


def _check_text(path: Path, text: str) -> None:
    if "\0" in text:
        raise NotStorable(path, "must not contain the character U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotStorable(path, "must not contain half of a surrogate pair") from None


def _check_range(path: Path, number: float) -> None:
    if math.isinf(number):
        raise NotStorable(path, "is out of range")
