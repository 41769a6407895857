"""The failpoints are those of the enumeration and of the page, and nothing but a test can arm one."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter

from app import failpoints
from app.settings import Settings
from tests.command import ROOT, process_environment
from tests.points import answering, asking, ingesting, relaying

ENUMERATED = [*relaying.POINTS, *answering.POINTS, *ingesting.POINTS, *asking.POINTS]
_PRODUCT = [path for part in ("app", "relay", "migrations") for path in (ROOT / part).rglob("*.py")]


def _in_the_code() -> Counter[str]:
    """The points of the product, each with how many calls have its name."""
    found = Counter[str]()
    for path in _PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}: the name of a point is a literal"
                found[str(name.value)] += 1
    return found


def test_each_point_of_the_code_is_met_with_every_fault() -> None:
    found = _in_the_code()
    assert sorted(found) == sorted(ENUMERATED)
    assert set(found.values()) == {1}, "two places with one name"


def test_the_page_has_them_all() -> None:
    page = (ROOT / "docs" / "proof-points.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(ENUMERATED)


def test_nothing_in_the_product_sets_the_hook() -> None:
    for path in _PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            assert not any(ast.unparse(target).endswith("hook") for target in targets), path
            assert not (isinstance(node, ast.Import | ast.ImportFrom) and "tests" in ast.unparse(node)), path
    assert "environ" not in (ROOT / "app" / "failpoints.py").read_text(encoding="utf-8")
    assert not [name for name in Settings.model_fields if "fail" in name and "point" in name]


def test_no_variable_arms_anything() -> None:
    names = ("FAILPOINT", "FAILPOINTS", "OUTBOX_FAILPOINT", "APP_FAILPOINTS", "HOOK")
    armed = dict.fromkeys(names, "relay.after_claim:exit")
    said = subprocess.run(
        [sys.executable, "-c", "import app.cli, relay.loop; from app import failpoints; print(failpoints.hook)"],
        env=process_environment(**armed) | {"PYTHONPATH": os.pathsep.join([str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert said.stdout == "None\n"


def test_what_arms_them_is_in_no_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["app", "relay", "migrations"]
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in allowed
    assert not [line for line in allowed if line.startswith("!") and "test" in line]
    assert "tests" not in (ROOT / "Dockerfile").read_text(encoding="utf-8")


async def test_a_point_that_nobody_has_armed_does_nothing() -> None:
    assert failpoints.hook is None
    await failpoints.reach("relay.after_claim")
