"""The generated pages about the API are what the code says now."""

import difflib
from pathlib import Path

import pytest

from app.api.kinds import KINDS
from app.cli import api_docs

_DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize(
    ("name", "page"),
    [("openapi.json", api_docs.openapi_page), ("errors.md", api_docs.errors_page)],
    ids=["openapi", "errors"],
)
def test_the_page_is_not_stale(name: str, page: object) -> None:
    assert callable(page)
    committed = (_DOCS / name).read_text(encoding="utf-8")
    difference = list(
        difflib.unified_diff(committed.splitlines(), page().splitlines(), "committed", "now", lineterm="")
    )
    assert not difference, f"docs/{name} is stale, run `make docs`:\n" + "\n".join(difference[:60])


def test_each_problem_has_its_section() -> None:
    page = (_DOCS / "errors.md").read_text(encoding="utf-8")
    for kind in KINDS.values():
        assert f"\n## {kind.name}\n" in page
        assert kind.advice in page
