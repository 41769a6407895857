"""The broker's breaker with a clock that the test sets."""

from datetime import timedelta

import pytest

from relay.breaker import Breaker, Permit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(first_pause=timedelta(seconds=1), longest_pause=timedelta(seconds=5), clock=clock)


def test_it_is_closed_at_first_and_everybody_claims(breaker: Breaker) -> None:
    assert breaker.closed
    assert [breaker.permit() for _ in range(3)] == [Permit.CLAIM] * 3


def test_after_a_failure_all_rest_until_the_pause_is_over_then_one_probes(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    assert not breaker.closed
    assert breaker.permit() is Permit.REST
    clock.now += 0.9
    assert breaker.permit() is Permit.REST
    clock.now += 0.2
    assert [breaker.permit() for _ in range(3)] == [Permit.PROBE, Permit.REST, Permit.REST]


def test_a_confirmed_probe_closes_it(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += 2
    assert breaker.permit() is Permit.PROBE
    breaker.answered()
    assert breaker.closed
    assert breaker.permit() is Permit.CLAIM
    assert breaker.answered_at == clock.now


def test_failed_probes_double_the_pause_up_to_the_longest(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    for pause in (1, 2, 4, 5, 5):
        clock.now += pause - 0.01
        assert breaker.permit() is Permit.REST
        clock.now += 0.02
        assert breaker.permit() is Permit.PROBE
        breaker.failed()


def test_slots_that_fail_together_count_once(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        breaker.failed()
    clock.now += 2.01
    assert breaker.permit() is Permit.PROBE


def test_after_an_answer_the_pause_is_short_again(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
        clock.now += 10
        assert breaker.permit() is Permit.PROBE
    breaker.answered()
    breaker.failed()
    clock.now += 1.01
    assert breaker.permit() is Permit.PROBE


def test_a_probe_without_anything_to_send_lets_the_next_one_probe(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += 2
    assert breaker.permit() is Permit.PROBE
    breaker.unused()
    assert not breaker.closed
    assert breaker.permit() is Permit.PROBE


def test_after_any_number_of_failures_the_pause_is_still_the_longest(breaker: Breaker, clock: Clock) -> None:
    for _ in range(2000):
        breaker.failed()
        clock.now += 5.01
        assert breaker.permit() is Permit.PROBE
