"""What slots of one process tell each other about lanes."""

from datetime import timedelta

import pytest

from app.settings import load
from relay.breaker import Breaker, Permit
from relay.delivery import Plan
from relay.floor import Lane
from relay.shared import Share, Shared


def _lane(number: int) -> Lane:
    return Lane(number, floor=0, seen=0, mark=None, mark_xid=None, has_parked=False, xid=1)


def _plan(*, full: bool) -> Plan:
    return Plan(send=[], held=[], full=full, probe=None, _lanes={}, _full=frozenset())


@pytest.fixture
def shared() -> Shared:
    settings = load(_env_file=None, database_url="postgresql://localhost/none")
    shared = Shared(settings, Breaker(first_pause=timedelta(seconds=1), longest_pause=timedelta(seconds=1)))
    shared.traffic.call_all()
    return shared


def _found(shared: Shared, *lanes: int) -> Share | None:
    return shared.found(lanes, Permit.CLAIM)


def test_a_lane_that_another_slot_holds_is_not_claimed(shared: Shared) -> None:
    shared.claimed([_lane(1)])
    share = _found(shared, 1, 2)
    assert share is not None
    assert share.lanes == (2,)
    assert shared.traffic.pressure


def test_nothing_is_claimed_while_other_slots_hold_all_that_has_work(shared: Shared) -> None:
    shared.claimed([_lane(1), _lane(2)])
    assert _found(shared, 1, 2) is None
    assert shared.traffic.pressure, "there is work, only none for this slot"


def test_the_end_of_a_round_wakes_those_who_wait_for_its_lanes(shared: Shared) -> None:
    lane = _lane(1)
    shared.claimed([lane])
    shared.wake.clear()
    shared.released([lane])
    assert shared.wake.is_set()
    share = _found(shared, 1)
    assert share is not None
    assert share.lanes == (1,)


def test_a_lane_may_be_taken_before_its_last_holder_hears_of_its_commit(shared: Shared) -> None:
    lane = _lane(1)
    shared.claimed([lane])
    shared.claimed([lane])
    shared.released([lane])
    shared.released([lane])
    assert shared.held == {}
    assert shared.backlog == []


def test_a_lane_with_more_is_known_to_others_once_it_is_free(shared: Shared) -> None:
    lane = _lane(1)
    share = _found(shared, 1)
    assert share is not None
    shared.claimed([lane])
    shared.planned(share, [lane], _plan(full=True))
    assert shared.known(Permit.CLAIM) is None
    shared.released([lane])
    known = shared.known(Permit.CLAIM)
    assert known is not None
    assert known.lanes == (1,)


def test_other_processes_hold_all_there_was(shared: Shared) -> None:
    shared.claimed([])
    assert not shared.traffic.pressure


def test_the_last_known_lane_ends_the_pressure(shared: Shared) -> None:
    for lane, others_known in ((1, True), (2, False)):
        share = shared.known(Permit.CLAIM) or _found(shared, 1, 2)
        assert share is not None
        shared.claimed([_lane(lane)])
        shared.planned(share, [_lane(lane)], _plan(full=False))
        assert shared.traffic.pressure == others_known


@pytest.mark.parametrize("lanes", [1, 10, 32])
def test_a_light_round_takes_as_much_as_one_under_pressure(shared: Shared, lanes: int) -> None:
    shared.traffic.relax()
    share = _found(shared, *range(lanes))
    assert share is not None
    settings = shared.settings
    full = max(settings.relay_batch_messages, settings.relay_light_messages * lanes)
    assert full - lanes < share.messages * lanes <= full
    assert share.size == settings.relay_batch_bytes // lanes


@pytest.mark.parametrize(("payload_max", "counted"), [(None, True), (99, False), (100, False), (101, True)])
def test_bytes_are_counted_where_so_many_messages_may_have_too_many(
    shared: Shared, payload_max: int | None, counted: bool
) -> None:
    shared.payload_max = payload_max
    assert shared.counted(Share((1,), limit=1, messages=10, size=1000)) == counted
