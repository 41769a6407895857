import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.applications.names import fold


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Анна", "аННА"),
        ("ЁЛКА", "ёлка"),
        ("Straße", "STRASSE"),
        ("Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ"),
        ("й", "и\u0306"),
        ("Å", "A\u030a"),
    ],
)
def test_case_and_composition_make_no_difference(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("Анна", "Aнна"), ("е", "ё"), ("a b", "ab"), ("a%", "a_")])
def test_other_names_stay_other_names(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@given(st.text(max_size=30))
def test_folding_twice_changes_nothing(name: str) -> None:
    assert fold(fold(name)) == fold(name)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=200, max_size=200))
def test_the_longest_name_fits_an_index_entry(name: str) -> None:
    assert len(fold(name).encode()) <= 2_600


def test_no_character_folds_to_more_than_thirteen_bytes() -> None:
    assert max(len(fold(chr(c)).encode()) for c in range(0x110000) if not 0xD800 <= c < 0xE000) <= 13
