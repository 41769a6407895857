"""The small worlds of the model. The large ones: `make model`."""

import pytest

from tests.model.__main__ import main
from tests.model.cases import BREAK, HOLD, Case
from tests.model.configuration import Config, quick
from tests.model.explorer import explore
from tests.model.rules import Rule
from tests.model.state import Left


@pytest.mark.parametrize("case", [case for case in HOLD if not case.large], ids=lambda case: case.name)
def test_the_promise_holds(case: Case) -> None:
    found = explore(case.config)
    assert not found.broken, "\n".join((*found.steps, found.broken))
    assert found.states > 100


@pytest.mark.parametrize("case", BREAK, ids=lambda case: case.name)
def test_each_rule_is_needed(case: Case) -> None:
    found = explore(case.config)
    assert found.broken
    assert found.steps


def test_every_rule_is_switched_off_once() -> None:
    assert [case.config.off for case in BREAK] == list(Rule)


def test_what_a_rule_is_needed_for_holds_with_it() -> None:
    """What breaks is the rule that is off, and not the world in which it is."""
    held = Config((quick("a"), quick("a")), batch=1, unclaimed=False, left=Left(timeouts=1))
    assert not explore(held).broken


def test_the_steps_lead_to_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["first missing answer"]) == 0
    printed = capsys.readouterr().out
    assert " 6  R0: 1 has no answer\n" in printed
    assert " 7  R0: 2 confirmed\n        order: 2 reached the topic before 1" in printed
    assert printed.endswith("all as expected\n")


def test_a_promise_that_does_not_hold_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.model.__main__.HOLD", (BREAK[0],))
    assert main(["--small", BREAK[0].name]) == 1
    assert "1 NOT AS EXPECTED" in capsys.readouterr().out
