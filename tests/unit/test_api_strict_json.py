import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.strict_json import MAX_DEPTH, NotJson, NotStorable, parse

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT,
    lambda values: st.lists(values, max_size=5) | st.dictionaries(_TEXT, values, max_size=5),
    max_leaves=20,
)


@given(_VALUES, st.booleans())
def test_reads_what_python_writes(value: Any, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(document: bytes) -> None:
    with suppress(NotJson, NotStorable):
        json.dumps(parse(document)).encode()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "not JSON, at line 1, column 1"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1 /* one */}', "not JSON"),
        (b'["\n"]', "not JSON"),
        (b"01", "not JSON"),
        (b"NaN", "NaN"),
        (b'{"a": [-Infinity]}', "NaN"),
        pytest.param(b"9" * 41, "longer than 40", id="long integer"),
        pytest.param(b"0." + b"9" * 5000, "longer than 40", id="long fraction"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "twice"),
        (b'{"a": 1, "\\u0061": 2}', "twice"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ('{"a": "й"}'.encode("utf-16"), "not UTF-8"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xc0\xaf"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        pytest.param(b"[" * 200_000, "nested", id="unfinished depth"),
        pytest.param(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested", id="deep array"),
        pytest.param(b'{"a":' * 40 + b"1" + b"}" * 40, "nested", id="deep object"),
    ],
)
def test_refuses_what_is_not_plain_json(document: bytes, says: str) -> None:
    with pytest.raises(NotJson, match=says):
        parse(document)


def test_the_deepest_and_the_longest_are_still_read() -> None:
    parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse(b"9" * 40) == int("9" * 40)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (b'"\\u0000"', ()),
        (b'{"a": [1, -1e400]}', ("a", 1)),
        (b'{"a": [{"b": "x\\u0000"}]}', ("a", 0, "b")),
        (b'{"a": "\\ud800"}', ("a",)),
        (b'{"a": ["ok", "\\udc00\\ud800"]}', ("a", 1)),
        (b'{"\\ud800": 1}', ("\ud800",)),
    ],
)
def test_names_what_cannot_be_stored(document: bytes, path: tuple[str | int, ...]) -> None:
    with pytest.raises(NotStorable) as refused:
        parse(document)
    assert refused.value.path == path


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "😀"
