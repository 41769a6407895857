"""Judges a run: each invariant looks at all of its cases, counts them, and names what broke it.

The invariants, by their numbers: nothing acknowledged is lost (1), domain and messages are pairs (2), refusals leave
nothing (3), unknown ends are resolved (4), nothing stays behind (5), nothing is invented or altered (6), receipts are
true (7), order per key (8), repeats have a cause (9). What concerns consumers is in `judge_inputs`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from tests.chaos.evidence import Evidence
from tests.chaos.history import Fault, Try
from tests.chaos.schedule import KINDS
from tests.judge import _fingerprint, _header
from tests.services.kafka import Record

_SHOWN = 5


@dataclass
class Verdict:
    """What became of one invariant."""

    name: str
    statement: str
    checked: int = 0
    violations: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        """Count a case."""
        self.checked += 1
        if not holds:
            self.violations.append(otherwise)

    @property
    def shown(self) -> list[str]:
        more = len(self.violations) - _SHOWN
        return self.violations[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])


Check = Callable[[Evidence], Verdict]


def by_operation(evidence: Evidence, *kinds: str) -> dict[str, list[Try]]:
    found: defaultdict[str, list[Try]] = defaultdict(list)
    for each in evidence.tries:
        if each.kind in kinds:
            found[each.op_id].append(each)
    return found


def _all_records(evidence: Evidence) -> list[Record]:
    """What the outbox has published: all but the inputs."""
    return [record for topic, records in evidence.records.items() if topic not in evidence.groups for record in records]


def _first(evidence: Evidence) -> dict[UUID, Record]:
    first: dict[UUID, Record] = {}
    for record in _all_records(evidence):
        first.setdefault(UUID(_header(record, "ce_id")), record)
    return first


def acknowledged(evidence: Evidence) -> Verdict:
    verdict = Verdict("I1", "what was acknowledged is there, once, with its messages")
    stored = Counter(text.partition(":")[0] for _, text in evidence.applications)
    for op_id, tries in by_operation(evidence, "apply", "apply-again").items():
        if any(each.outcome == "ok" for each in tries):
            verdict.check(stored[op_id] == 1, f"{op_id} was acknowledged and is stored {stored[op_id]} times")
    known = {str(message.message_id) for message in evidence.added}
    for op_id, tries in by_operation(evidence, "order").items():
        for each in tries:
            if each.outcome == "ok":
                missing = set((each.id or "").split()) - known
                verdict.check(not missing, f"{op_id} was committed and is stored 0 times: {missing}")
    tasks = {task.task_id for task in evidence.tasks}
    for op_id, tries in by_operation(evidence, "task").items():
        if any(each.outcome == "ok" and each.http for each in tries):
            there = int(op_id.partition("-")[2]) in tasks
            verdict.check(there, f"{op_id} was acknowledged and is stored 0 times")
    return verdict


def lost(evidence: Evidence) -> int:
    """How many acknowledged writes are not there at all."""
    return sum("is stored 0 times" in violation for violation in acknowledged(evidence).violations)


def pairs(evidence: Evidence) -> Verdict:
    verdict = Verdict("I2", "each change has its message, each message its change")
    told = Counter(
        (message.topic, (message.key or b"").decode()) for message in evidence.added if message.topic != "chaos.orders"
    )
    topics = evidence.topics
    numbers = {number for number, _ in evidence.applications}
    for number in numbers:
        count = told[topics["applications"], str(number)]
        verdict.check(count == 1, f"application {number} has {count} messages")
    for (topic, key), count in told.items():
        if topic == topics["applications"]:
            verdict.check(int(key) in numbers, f"{count} messages tell of application {key}, which is not there")
    done = {task.task_id for task in evidence.tasks if task.state == "done"}
    for task in evidence.tasks:
        results = told[topics["results"], str(task.task_id)]
        wanted = (task.state == "done", results >= 1)
        verdict.check(wanted[0] == wanted[1], f"task {task.task_id} is {task.state} and has {results} results")
        failed = told[topics["errors"], str(task.task_id)]
        verdict.check(task.state != "failed" or failed >= 1, f"task {task.task_id} failed in silence")
    for topic, key in told:
        if topic == topics["results"]:
            verdict.check(int(key) in done, f"a result tells of task {key}, which is not done")
    return verdict


def refused(evidence: Evidence) -> Verdict:
    verdict = Verdict("I3", "what was refused left nothing")
    stored = {text.partition(":")[0] for _, text in evidence.applications}
    ids = {str(message.message_id) for message in evidence.added}
    tasks = {task.task_id for task in evidence.tasks}
    for op_id, tries in by_operation(evidence, "apply-invalid", "apply-reused").items():
        last = tries[-1]
        verdict.check(last.outcome == "fail" and op_id not in stored, f"{op_id} {last.kind} ended with {last.http}")
        verdict.check(
            last.kind != "apply-invalid" or last.idem_key not in evidence.idempotency_keys, f"{op_id} left its key"
        )
    for op_id, tries in by_operation(evidence, "order").items():
        for each in tries:
            if each.outcome == "fail":
                left = set((each.id or "").split()) & ids
                verdict.check(not left, f"{op_id} was rolled back and left {left}")
    for op_id in by_operation(evidence, "task-invalid"):
        verdict.check(int(op_id.partition("-")[2]) not in tasks, f"{op_id} is no task, and is stored")
    for op_id, tries in by_operation(evidence, "task-reused").items():
        for each in tries:
            if each.http is not None and each.outcome != "info":
                verdict.check(each.outcome == "fail", f"{op_id} with other data was answered with {each.http}")
    return verdict


def resolved(evidence: Evidence) -> Verdict:
    verdict = Verdict("I4", "what was unknown is all or nothing; repeats got one id")
    for op_id, tries in by_operation(evidence, "apply", "apply-again").items():
        if any(each.outcome == "info" for each in tries):
            verdict.check(tries[-1].outcome == "ok", f"{op_id} was never resolved")
        numbers = {each.id for each in tries if each.outcome == "ok"}
        verdict.check(len(numbers) <= 1, f"{op_id} got the ids {numbers}")
    known = {str(message.message_id) for message in evidence.added}
    for op_id, tries in by_operation(evidence, "order").items():
        for each in tries:
            if each.outcome == "info":
                mine = set((each.id or "").split())
                verdict.check(len(mine & known) in (0, len(mine)), f"{op_id} was committed in part")
    return verdict


def nothing_left(evidence: Evidence) -> Verdict:
    verdict = Verdict("I5", "nothing is owed any more; each message has its record and its receipt")
    first = _first(evidence)
    receipts = Counter(receipt.message_id for receipt in evidence.receipts)
    for message in evidence.added:
        message_id = message.message_id
        verdict.check(message_id in first or message_id in evidence.left.dead, f"{message_id} is lost")
        ends = receipts[message_id] + (message_id in evidence.left.owed) + (message_id in evidence.left.dead)
        verdict.check(
            ends == 1 and message_id not in evidence.left.owed,
            f"{message_id} of {message.topic}: {receipts[message_id]} receipts, "
            f"owed: {message_id in evidence.left.owed}, dead: {evidence.left.dead.get(message_id)}",
        )
    verdict.check(not evidence.left.dead, f"dead letters of the relay: {set(evidence.left.dead.values())}")
    return verdict


def nothing_invented(evidence: Evidence) -> Verdict:
    verdict = Verdict("I6", "each record was added by a committed transaction, as it is")
    by_id = {message.message_id: message for message in evidence.added}
    for record in _all_records(evidence):
        message_id = UUID(_header(record, "ce_id"))
        message = by_id.get(message_id)
        where = f"{record.topic}/{record.partition}@{record.offset}"
        verdict.check(message is not None, f"{where}: {message_id} was invented")
        if message is None:
            continue
        flat = iter(message.headers)
        own = [(name.decode(), value) for name, value in zip(flat, flat, strict=True)]
        same = (record.topic, record.key, record.value) == (message.topic, message.key, message.payload)
        verdict.check(same and list(record.headers)[4:] == own, f"{where}: {message_id} was altered")
    return verdict


def receipts(evidence: Evidence) -> Verdict:
    verdict = Verdict("I7", "receipts are true; nothing leaves the outbox without receipt, park or dead letter")
    places = {(record.topic, record.partition, record.offset): record for record in _all_records(evidence)}
    for receipt in evidence.receipts:
        there = places.get((receipt.topic, receipt.partition, receipt.offset))
        true = (
            there is not None
            and _header(there, "ce_id") == str(receipt.message_id)
            and _fingerprint(there) == receipt.fingerprint % 2**64
        )
        verdict.check(true, f"{receipt} is not true")
    stays = {(move.xid, move.message_id) for move in evidence.moved if move.what != "left"}
    for move in evidence.moved:
        if move.what == "left":
            verdict.check((move.xid, move.message_id) in stays, f"{move.message_id} left without a trace")
    return verdict


def order(evidence: Evidence) -> Verdict:
    verdict = Verdict("I8", "one partition per key; first occurrences in the order of ids, which is that of commits")
    by_id = {message.message_id: message for message in evidence.added}
    last: dict[tuple[str, bytes], tuple[int, int]] = {}
    for message_id, record in _first(evidence).items():
        message = by_id.get(message_id)
        if message is None or message.key is None:
            continue
        place = message.topic, message.key
        before, partition = last.get(place, (0, record.partition))
        verdict.check(partition == record.partition, f"{place} is in partitions {partition} and {record.partition}")
        verdict.check(before < message.id, f"{place}: {message.id} came after {before}")
        last[place] = max(before, message.id), record.partition
    committed: dict[tuple[str, bytes], float] = {}
    for message in sorted(evidence.added, key=lambda each: each.id):
        if message.key is not None:
            place, at = (message.topic, message.key), evidence.committed_at[message.message_id]
            verdict.check(committed.get(place, 0) <= at, f"{place}: {message.id} was committed before a smaller id")
            committed[place] = at
    return verdict


def repeats(evidence: Evidence, *, settling: float) -> Verdict:
    """`settling`: seconds for which a fault may still cause repeats after its end."""
    verdict = Verdict("I9", "each repeat is of a message that was owed during a fault")
    left = {move.message_id: move.at for move in evidence.moved if move.what == "receipt"}
    causes = [fault for fault in evidence.faults if _meets_the_relay(fault)]
    copies = Counter(UUID(_header(record, "ce_id")) for record in _all_records(evidence))
    for message_id, count in copies.items():
        if count == 1:
            verdict.checked += 1
            continue
        began, ended = evidence.added_at.get(message_id, 0.0), left.get(message_id, float("inf"))
        caused = any(began <= fault.end + settling and ended >= fault.start for fault in causes)
        verdict.check(caused, f"{message_id} is there {count} times, and no fault was near")
    return verdict


def _meets_the_relay(fault: Fault) -> bool:
    """Others than relays, PostgreSQL and Kafka have no part in publishing."""
    return fault.victim.startswith("relay-") or KINDS[fault.kind].track != "processes"


def freed(evidence: Evidence, *, killed: float, frozen: float) -> Verdict:
    """Within so many seconds."""
    verdict = Verdict(
        "I18", f"lanes of a killed relay are free within {killed:g} s, of a frozen one within {frozen:g} s"
    )
    for fault in evidence.faults:
        took = fault.details.get("taken_over_after")
        if isinstance(took, float):
            verdict.check(took <= (killed if fault.kind == "kill-relay" else frozen), f"{fault.kind}: {took} s")
    return verdict
