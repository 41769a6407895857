"""Judges what became of inputs: conservation (10), effect once (11), offsets (12), ids used twice (13), dead letters
(14), and what third parties were paid.
"""

import json
import re
from collections import Counter, defaultdict
from itertools import accumulate

from app.kafka.input import Input, coordinates, fingerprint, identify
from app.tasks.inputs import cache_key
from app.tasks.outcomes import PROVIDERS
from tests.chaos.evidence import Evidence, to_input
from tests.chaos.judge import Verdict, by_operation
from tests.judge import _header
from tests.services.kafka import Record

Place = tuple[str, int, int]
_EMAIL = re.compile(rb"<ns2:Email>([^<]*)</ns2:Email>")


def _inputs(evidence: Evidence) -> list[Input]:
    return [to_input(record) for topic in evidence.groups for record in evidence.records[topic]]


def _dead_letters(evidence: Evidence) -> dict[Place, list[Record]]:
    """First copies of dead letters, by the place of the input."""
    found: defaultdict[Place, list[Record]] = defaultdict(list)
    seen: set[str] = set()
    for topic in evidence.dead_letter_topics.values():
        for record in evidence.records[topic]:
            if (message_id := _header(record, "ce_id")) not in seen:
                seen.add(message_id)
                place = _header(record, "dlq.topic"), int(_header(record, "dlq.partition"))
                found[*place, int(_header(record, "dlq.offset"))].append(record)
    return found


def _place(each: Input) -> Place:
    return each.topic, each.partition, each.offset


def _known_as(evidence: Evidence, each: Input) -> tuple[str, str] | None:
    """Under which id the inbox knows it; None if it does not."""
    group = evidence.groups[each.topic]
    own = group, identify(each)
    if evidence.inbox.get(own) == fingerprint(each):
        return own
    reused = group, f"reused:{coordinates(each)}"
    return reused if evidence.inbox.get(reused) == fingerprint(each) else None


def conserved(evidence: Evidence) -> Verdict:
    verdict = Verdict("I10", "each input was handled, is a repeat, or is a dead letter; offsets are at the end")
    dead = _dead_letters(evidence)
    for each in _inputs(evidence):
        known = _known_as(evidence, each)
        verdict.check(known is not None, f"{_place(each)} was passed over")
        verdict.check(len(dead[_place(each)]) <= 1, f"{_place(each)} has {len(dead[_place(each)])} dead letters")
    for topic, group in evidence.groups.items():
        ends: Counter[int] = Counter()
        for record in evidence.records[topic]:
            ends[record.partition] = max(ends[record.partition], record.offset + 1)
        for partition, end in ends.items():
            done = evidence.committed[group].get((topic, partition), 0)
            verdict.check(done >= end, f"{topic}/{partition} is committed up to {done} of {end}")
    return verdict


def once(evidence: Evidence) -> Verdict:
    verdict = Verdict("I11", "each input has its effect once, however often it came")
    _judge_users(evidence, verdict)
    _judge_tasks(evidence, verdict)
    return verdict


def _judge_users(evidence: Evidence, verdict: Verdict) -> None:
    replies: Counter[bytes] = Counter()
    for message in evidence.added:
        if message.topic == evidence.topics["replies"]:
            headers = dict(zip(message.headers[::2], message.headers[1::2], strict=True))
            place = b"source-topic", b"source-partition", b"source-offset"
            replies[b":".join(headers[name] for name in place)] += 1
    by_id: defaultdict[str, list[Input]] = defaultdict(list)
    for each in _inputs(evidence):
        if each.topic == evidence.topics["users"] and each.header("ce_id") is not None:
            by_id[identify(each)].append(each)
    for name, copies in by_id.items():
        answered = sum(replies[f"{each.topic}:{each.partition}:{each.offset}".encode()] for each in copies)
        verdict.check(answered == 1, f"{name} came {len(copies)} times and was answered {answered} times")
    emails, wanted = Counter(email for _, email in evidence.users), _wanted_users(evidence)
    for email in wanted | emails.keys():
        # Not the email itself: a report is no place for it.
        verdict.check(emails[email] == 1, f"a user that was requested is stored {emails[email]} times")
        verdict.check(email in wanted, "a user is stored whom nobody requested")


def _judge_tasks(evidence: Evidence, verdict: Verdict) -> None:
    numbers = {task.task_id for task in evidence.tasks}
    for each in _inputs(evidence):
        if each.topic == evidence.topics["tasks"] and (task_id := _task(each)) is not None:
            verdict.check(task_id in numbers, f"{_place(each)} is a task, and is not stored")
    results = [task.result_id for task in evidence.tasks if task.result_id is not None]
    verdict.check(len(results) == len(set(results)), "two tasks have one result")
    told = Counter(message.key for message in evidence.added if message.topic == evidence.topics["results"])
    taken = _taken_again(evidence)
    for task in evidence.tasks:
        if task.state == "done":
            # A task that comes again over Kafka is told its result again: it is the answer to a message of its own.
            most = 1 + taken[task.task_id]
            count = told[str(task.task_id).encode()]
            verdict.check(1 <= count <= most, f"task {task.task_id} was told {count} times, came {most} times")


def _wanted_users(evidence: Evidence) -> set[str]:
    """The emails in requests that won their ids."""
    found: set[str] = set()
    for each in _inputs(evidence):
        if each.topic == evidence.topics["users"]:
            name = evidence.groups[each.topic], identify(each)
            if evidence.inbox.get(name) == fingerprint(each):
                found.update(email.decode() for email in _EMAIL.findall(each.value or b""))
    return found


def _task(each: Input) -> int | None:
    """The number of what is a task by its form."""
    content = json.loads(each.value or b"{}")
    return int(content["task_id"]) if content.get("task_type") in PROVIDERS else None


def _taken_again(evidence: Evidence) -> Counter[int]:
    """How often a task came over Kafka in records of its own."""
    came: Counter[int] = Counter()
    for op_id, tries in by_operation(evidence, "task").items():
        came[int(op_id.partition("-")[2])] += len(tries)
    return came


def offsets(evidence: Evidence) -> Verdict:
    verdict = Verdict("I12", "at no sampled time was an offset ahead of its commit in PostgreSQL")
    latest: dict[tuple[str, int], list[float]] = {}
    for topic in evidence.groups:
        places: defaultdict[int, dict[int, float]] = defaultdict(dict)
        for record in evidence.records[topic]:
            each = to_input(record)
            known = _known_as(evidence, each)
            # What the inbox does not know at all is I10's matter.
            places[record.partition][record.offset] = 0.0 if known is None else evidence.remembered_at[known]
        for partition, moments in places.items():
            dense = [moments.get(offset, 0.0) for offset in range(max(moments) + 1)]
            latest[topic, partition] = list(accumulate(dense, max))
    for sample in evidence.samples:
        for (topic, partition), offset in sample.offsets.items():
            if offset > 0 and (topic, partition) in latest:
                known_by = latest[topic, partition][min(offset, len(latest[topic, partition])) - 1]
                verdict.check(
                    known_by <= sample.at,
                    f"{topic}/{partition}: offset {offset} was committed {known_by - sample.at:.3f} s too early",
                )
    return verdict


def reused(evidence: Evidence) -> Verdict:
    verdict = Verdict("I13", "another message under a known id is a dead letter, never a repeat")
    dead = _dead_letters(evidence)
    for each in _inputs(evidence):
        name = evidence.groups[each.topic], identify(each)
        is_clash = name in evidence.inbox and evidence.inbox[name] != fingerprint(each)
        letters = dead[_place(each)]
        if is_clash:
            reasons = [_header(letter, "dlq.reason") for letter in letters]
            verdict.check(reasons == ["KEY_REUSED"], f"{_place(each)} clashes with a known id: {reasons}")
    answers = by_operation(evidence, "apply-reused")
    for op_id, tries in answers.items():
        verdict.check(tries[-1].http == 422, f"{op_id}: a key used again was answered with {tries[-1].http}")
    return verdict


def dead_letters(evidence: Evidence) -> Verdict:
    verdict = Verdict("I14", "dead letters are the inputs, byte for byte, and no good input is one")
    sources = {_place(each): each for each in _inputs(evidence)}
    wrong = set(by_operation(evidence, "user-invalid", "user-reused"))
    for place, letters in _dead_letters(evidence).items():
        source = sources.get(place)
        for letter in letters:
            same = source is not None and (source.key, source.value) == (letter.key, letter.value)
            verdict.check(same, f"the dead letter of {place} is not what came")
            if source is None or source.topic != evidence.topics["users"]:
                continue
            op_id = (source.header("ce_id") or b"").decode()
            verdict.check(op_id in wrong, f"{place} ({op_id}) was good: {_header(letter, 'dlq.reason')}")
    return verdict


def paid(evidence: Evidence) -> Verdict:
    verdict = Verdict("PAID", "third parties were paid for distinct inputs, and once more per unknown outcome at most")
    verdict.check(evidence.open_attempts == 0, f"{evidence.open_attempts} calls have no end")
    asked: dict[str, set[object]] = {
        "dadata": {task.cache_key for task in evidence.tasks if task.cache_key is not None},
        "yandexgpt": {task.input for task in evidence.tasks if task.task_type == "gpt"},
    }
    billed: dict[str, list[object]] = {
        "dadata": [_key(text) for text in evidence.billed["dadata"]],
        "yandexgpt": list(evidence.billed["yandexgpt"]),
    }
    for provider, inputs in billed.items():
        twice, unknown = len(inputs) - len(set(inputs)), evidence.unknown[provider]
        verdict.checked += len(inputs)
        verdict.check(twice <= unknown, f"{provider} was paid {twice} times more, {unknown} outcomes are unknown")
        verdict.check(set(inputs) <= asked[provider], f"{provider} was asked what nobody wanted to know")
    done = {task.cache_key for task in evidence.tasks if task.state == "done" and task.cache_key is not None}
    verdict.check(done <= set(billed["dadata"]), "an answer was never asked for")
    return verdict


def _key(text: str) -> bytes | None:
    return cache_key("email" if "@" in text else "phone", text)
