"""The page of faults names a test for each rank that must be green, and each test that it names exists."""

import ast
import re

from tests.command import ROOT

RANKS = [*range(1, 16), *range(18, 23), 24, *range(28, 31), 36, 37]
"""Those that are shown on each change."""

_ROW = re.compile(r"^\| +(\d+) \|.*\|([^|]*)\|$", re.MULTILINE)
_NAMED = re.compile(r"`(tests/[a-z_/]+\.py)::(test_[a-z_0-9]+)`")


def _rows() -> list[tuple[int, list[tuple[str, str]]]]:
    page = (ROOT / "docs" / "proof-faults.md").read_text(encoding="utf-8")
    return [(int(rank), _NAMED.findall(tests)) for rank, tests in _ROW.findall(page)]


def test_each_rank_has_its_tests() -> None:
    assert [rank for rank, _ in _rows()] == RANKS
    assert [rank for rank, tests in _rows() if not tests] == []


def test_each_named_test_exists() -> None:
    named = {each for _, tests in _rows() for each in tests}
    missing = [f"{path}::{name}" for path, name in sorted(named) if name not in _tests_in(path)]
    assert not missing


def _tests_in(path: str) -> set[str]:
    if not (ROOT / path).exists():
        return set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
