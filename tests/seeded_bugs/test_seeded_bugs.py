"""Each bug is caught by the check that is there for it, and the same without the bug is well."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.command import ROOT
from tests.seeded_bugs import BUGS
from tests.seeded_bugs.__main__ import table
from tests.seeded_bugs.bug import Bench, Bug
from tests.services.kafka import Kafka, MockKafka

each_bug = pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, id=bug.name, marks=[pytest.mark.real_kafka] if bug.real_kafka else []) for bug in BUGS],
)


@pytest.fixture
async def bench(database_url: str, kafka: Kafka, mock_kafka: Callable[[int], MockKafka]) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(database_url, kafka, mock_kafka, stack, patience=timedelta(seconds=60))


@each_bug
async def test_it_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    hasty = replace(bench, patience=timedelta(seconds=5))
    bug.seed(monkeypatch, hasty)
    with pytest.raises(AssertionError, match=bug.says):
        await bug.trial(hasty)


@each_bug
async def test_without_it_all_is_well(bench: Bench, bug: Bug) -> None:
    await bug.trial(bench)


def test_the_page_has_the_table() -> None:
    _, page = (ROOT / "docs" / "proof-points.md").read_text(encoding="utf-8").split("## Seeded bugs")
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == [bug.name for bug in BUGS]
    assert table() in page
