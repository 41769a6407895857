"""The same seed gives the same schedule, and the judge finds each kind of guilt, or a green run would say nothing."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest

from app import cli
from app.kafka.input import fingerprint, identify
from tests.chaos import judge, judge_inputs
from tests.chaos.evidence import Evidence, Moved, Sample, Task, to_input
from tests.chaos.history import Fault
from tests.chaos.injecting import INJECTORS
from tests.chaos.judge import Verdict
from tests.chaos.running import CHECKS
from tests.chaos.schedule import KINDS, TRACKS, plan
from tests.chaos.testimony import (
    APPLICATIONS,
    DEAD,
    ORDERS,
    REPLIES,
    RESULTS,
    USERS,
    innocent,
    published,
    record,
    remembered,
    tell,
)
from tests.command import outbox


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert plan(7, 5, KINDS) == plan(7, 5, KINDS)
    assert plan(7, 5, KINDS) != plan(8, 5, KINDS)


@pytest.mark.parametrize("seed", range(20))
def test_each_chosen_fault_comes_however_short_the_run_is(seed: int) -> None:
    planned = plan(seed, 0.1, KINDS)
    assert {each.kind for each in planned} == set(KINDS)
    for track in TRACKS:
        mine = [each for each in planned if each.track == track]
        assert all(a.at + a.seconds < b.at for a, b in pairwise(mine))


def test_only_what_is_chosen_comes_and_the_unknown_is_refused() -> None:
    assert {each.kind for each in plan(1, 3, ["kill-relay", "cut-kafka"])} == {"kill-relay", "cut-kafka"}
    with pytest.raises(ValueError, match="there is no fault earthquake"):
        plan(1, 3, ["earthquake"])


def test_one_fault_at_a_time() -> None:
    planned = plan(5, 0.1, KINDS, alone=True)
    assert {each.kind for each in planned} == set(KINDS)
    assert all(a.at + a.seconds < b.at for a, b in pairwise(planned))


def test_each_fault_can_be_done() -> None:
    assert set(INJECTORS) == set(KINDS)


def test_the_command_plans_and_without_the_sources_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planned = outbox("chaos", "--plan", "--seed", 3, "--faults", "kill-api")
    assert (planned.exit_code, planned.stderr) == (0, "seed 3\n")
    assert {line.split()[2] for line in planned.stdout.splitlines()} == {"kill-api"}
    monkeypatch.setattr(cli.chaos, "_SOURCES", tmp_path)
    refused = outbox("chaos", "--plan")
    assert refused.exit_code == 1
    assert refused.stderr == "error: chaos is part of the sources: run it in a checkout, with `make chaos`\n"


def broken(evidence: Evidence) -> set[str]:
    verdicts: list[Verdict] = [check(evidence) for check in CHECKS]
    return {verdict.name for verdict in verdicts if verdict.violations}


def test_an_innocent_run_is_not_blamed() -> None:
    assert broken(innocent()) == set()


def lose(evidence: Evidence) -> None:
    del evidence.records[ORDERS][1]


def lose_what_was_acknowledged(evidence: Evidence) -> None:
    evidence.applications.clear()


def keep_owed(evidence: Evidence) -> None:
    evidence.left = evidence.left._replace(owed=frozenset({evidence.added[0].message_id}))


def invent(evidence: Evidence) -> None:
    evidence.records[ORDERS].append(record(ORDERS, 9, b"hot", b"?", message_id=UUID(int=99)))


def publish_what_was_rolled_back(evidence: Evidence) -> None:
    rolled_back = next(each for each in evidence.tries if each.kind == "order" and each.outcome == "fail")
    evidence.records[ORDERS].append(record(ORDERS, 9, b"hot", b"?", message_id=UUID(rolled_back.id)))


def alter(evidence: Evidence) -> None:
    evidence.records[ORDERS][0] = replace(evidence.records[ORDERS][0], value=b"other")


def swap(evidence: Evidence) -> None:
    first, second = evidence.records[ORDERS][:2]
    evidence.records[ORDERS][:2] = [
        replace(second, offset=first.offset),
        replace(first, offset=second.offset),
    ]


def commit_out_of_order(evidence: Evidence) -> None:
    first, second = (message.message_id for message in evidence.added if message.topic == ORDERS)
    evidence.committed_at[first] = evidence.committed_at[second] + 1


def repeat_without_a_cause(evidence: Evidence) -> None:
    evidence.records[ORDERS].append(replace(evidence.records[ORDERS][0], offset=9))


def lie_in_a_receipt(evidence: Evidence) -> None:
    evidence.receipts[0] = evidence.receipts[0]._replace(offset=77)


def drop_without_a_trace(evidence: Evidence) -> None:
    message_id = evidence.added[0].message_id
    evidence.moved = [each for each in evidence.moved if (each.message_id, each.what) != (message_id, "receipt")]


def store_without_a_message(evidence: Evidence) -> None:
    evidence.applications.append((5, "app-5: silent"))


def tell_of_nothing(evidence: Evidence) -> None:
    tell(evidence, APPLICATIONS, 77)


def store_what_was_refused(evidence: Evidence) -> None:
    evidence.applications.append((6, "app-bad: stored all the same"))
    tell(evidence, APPLICATIONS, 6)


def store_twice(evidence: Evidence) -> None:
    number, text = evidence.applications[0]
    evidence.applications.append((number + 100, text))
    tell(evidence, APPLICATIONS, number + 100)


def answer_a_repeat_with_another_id(evidence: Evidence) -> None:
    evidence.tries.append(replace(evidence.tries[0], id="1000"))


def never_resolve(evidence: Evidence) -> None:
    evidence.tries.append(replace(evidence.tries[0], outcome="info", id=None, http=503))


def commit_in_part(evidence: Evidence) -> None:
    mine = str(evidence.added[0].message_id)
    evidence.tries.append(
        replace(evidence.tries[0], op_id="o", kind="order", outcome="info", id=f"{mine} {UUID(int=98)}")
    )


def pass_over(evidence: Evidence) -> None:
    evidence.inbox.clear()


def leave_unread(evidence: Evidence) -> None:
    evidence.committed["users"] = {}


def answer_twice(evidence: Evidence) -> None:
    reply = next(message for message in evidence.added if message.topic == REPLIES)
    published(evidence, REPLIES, reply.key, reply.payload, headers=reply.headers)


def store_a_user_twice(evidence: Evidence) -> None:
    evidence.users.append((9, evidence.users[0][1]))


def store_no_user(evidence: Evidence) -> None:
    evidence.users.clear()


def store_a_user_whom_nobody_requested(evidence: Evidence) -> None:
    evidence.users.append((9, "nobody@example.com"))


def forget_a_task(evidence: Evidence) -> None:
    evidence.tasks = [task for task in evidence.tasks if task.task_id != 2]


def fail_in_silence(evidence: Evidence) -> None:
    evidence.tasks.append(Task(3, "phone", "8", None, "failed", None))


def take_another_for_a_repeat(evidence: Evidence) -> None:
    evidence.records[DEAD].clear()


def bury_a_good_one(evidence: Evidence) -> None:
    evidence.records[USERS][0] = replace(evidence.records[USERS][0], headers=())


def spoil_a_dead_letter(evidence: Evidence) -> None:
    evidence.records[DEAD][0] = replace(evidence.records[DEAD][0], value=b"spoilt")


def commit_the_offset_first(evidence: Evidence) -> None:
    evidence.samples.append(Sample(at=1.0, group="users", offsets={(USERS, 0): 1}))


def publish_no_event(evidence: Evidence) -> None:
    spoil(evidence, APPLICATIONS, b'{"id": "1", "user_name": "Anna", "description": "d", "created_at": "now"}')


def publish_no_json(evidence: Evidence) -> None:
    spoil(evidence, RESULTS, b'{"task_id": 1, "id": ')


def publish_no_reply(evidence: Evidence) -> None:
    spoil(evidence, REPLIES, b'<Response xmlns="urn://www.example.com"><User><Status>DONE</Status></User></Response>')


def publish_no_xml(evidence: Evidence) -> None:
    spoil(evidence, REPLIES, b"<Response")


def publish_nothing(evidence: Evidence) -> None:
    spoil(evidence, RESULTS, None)


def leave_out_a_header(evidence: Evidence) -> None:
    letter = evidence.records[DEAD][0]
    left = tuple(pair for pair in letter.headers if pair[0] != "dlq.consumer")
    evidence.records[DEAD][0] = replace(letter, headers=left)


def spoil(evidence: Evidence, topic: str, payload: bytes | None) -> None:
    evidence.records[topic][0] = replace(evidence.records[topic][0], value=payload)


def pay_twice(evidence: Evidence) -> None:
    evidence.billed["dadata"] *= 2


def finish_in_silence(evidence: Evidence) -> None:
    evidence.tasks.append(Task(3, "gpt", "why", None, "done", 3))


@pytest.mark.parametrize(
    ("crime", "found"),
    [
        (lose, "I5"),
        (lose_what_was_acknowledged, "I1"),
        (keep_owed, "I5"),
        (invent, "I6"),
        (publish_what_was_rolled_back, "I6"),
        (alter, "I6"),
        (swap, "I8"),
        (commit_out_of_order, "I8"),
        (repeat_without_a_cause, "I9"),
        (lie_in_a_receipt, "I7"),
        (drop_without_a_trace, "I7"),
        (store_without_a_message, "I2"),
        (tell_of_nothing, "I2"),
        (store_what_was_refused, "I3"),
        (store_twice, "I1"),
        (answer_a_repeat_with_another_id, "I4"),
        (never_resolve, "I4"),
        (commit_in_part, "I4"),
        (pass_over, "I10"),
        (leave_unread, "I10"),
        (answer_twice, "I11"),
        (store_a_user_twice, "I11"),
        (store_no_user, "I11"),
        (store_a_user_whom_nobody_requested, "I11"),
        (forget_a_task, "I11"),
        (fail_in_silence, "I2"),
        (take_another_for_a_repeat, "I13"),
        (spoil_a_dead_letter, "I14"),
        (commit_the_offset_first, "I12"),
        (publish_no_event, "I15"),
        (publish_no_json, "I15"),
        (publish_no_reply, "I15"),
        (publish_no_xml, "I15"),
        (publish_nothing, "I15"),
        (leave_out_a_header, "I15"),
        (pay_twice, "PAID"),
        (finish_in_silence, "I2"),
    ],
)
def test_each_crime_is_found(crime: Callable[[Evidence], None], found: str) -> None:
    evidence = innocent()
    crime(evidence)
    assert found in broken(evidence)


def test_a_repeat_during_a_fault_is_no_crime() -> None:
    evidence = innocent()
    repeat_without_a_cause(evidence)
    evidence.faults.append(Fault("kill-relay", 0, start=0, end=2, victim="relay-1"))
    assert broken(evidence) == set()


def test_a_fault_elsewhere_is_no_excuse_for_a_repeat() -> None:
    evidence = innocent()
    repeat_without_a_cause(evidence)
    evidence.faults.append(Fault("kill-api", 0, start=0, end=2, victim="api-1"))
    assert broken(evidence) == {"I9"}


def test_what_leaves_while_parked_or_dead_has_a_trace() -> None:
    evidence = innocent()
    drop_without_a_trace(evidence)
    left = next(each for each in evidence.moved if each.message_id == evidence.added[0].message_id)
    evidence.moved.append(Moved(left.xid, "parked", left.message_id, left.at))
    assert judge.receipts(evidence).violations == []


def test_a_call_whose_outcome_is_unknown_may_be_paid_twice() -> None:
    evidence = innocent()
    pay_twice(evidence)
    evidence.unknown["dadata"] = len(evidence.billed["dadata"])
    assert judge_inputs.paid(evidence).violations == []


def test_an_input_is_known_by_its_id() -> None:
    evidence = innocent()
    first = to_input(evidence.records[USERS][0])
    assert evidence.inbox["users", identify(first)] == fingerprint(first)
    assert remembered(evidence)
