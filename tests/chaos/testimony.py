"""The evidence of a small run in which everything was as promised; the judge's own tests spoil it."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from aiokafka import ConsumerRecord

from app.kafka.input import coordinates, fingerprint, identify
from app.tasks.inputs import cache_key
from tests.chaos.evidence import Evidence, Moved, Sample, Task, to_input
from tests.chaos.history import Outcome, Try
from tests.judge import Left, Receipt, _fingerprint
from tests.ledger import Added
from tests.services.kafka import Record

APPLICATIONS, USERS, REPLIES, DEAD = "applications", "users.requests", "users.responses", "users.requests.dlq"
TASKS, TASKS_DEAD, RESULTS, ERRORS, ORDERS = "tasks", "tasks.dlq", "results", "errors", "chaos.orders"

EVENT = b'{"id": %d, "user_name": "Anna", "description": "d", "created_at": "2026-01-02T03:04:05Z"}'
RESULT = b'{"task_id": %d, "id": 1}'
_REPLY = (
    b'<ns2:Response xmlns:ns2="urn://www.example.com"><ns2:User><ns2:Id>1</ns2:Id>'
    b"<ns2:Status>SUCCESS</ns2:Status></ns2:User></ns2:Response>"
)

Headers = Sequence[tuple[str, bytes]]


def record(
    topic: str,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    *,
    message_id: UUID | None = None,
    headers: Headers = (),
) -> Record:
    ours: Headers = (
        ()
        if message_id is None
        else (
            ("ce_specversion", b"1.0"),
            ("ce_id", str(message_id).encode()),
            ("ce_type", b"happened"),
            ("ce_time", b"2026-01-02T03:04:05Z"),
        )
    )
    return ConsumerRecord(
        topic=topic,
        partition=0,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=1,
        headers=(*ours, *headers),
    )


def published(
    evidence: Evidence, topic: str, key: bytes | None, value: bytes | None, *, headers: Sequence[bytes] = ()
) -> Added:
    """A message that went its way as it should."""
    number = len(evidence.added) + 1
    added = Added(number, UUID(int=number), topic, key, list(headers), value, "happened")
    pairs = [(name.decode(), text) for name, text in zip(headers[::2], headers[1::2], strict=True)]
    found = record(topic, len(evidence.records[topic]), key, value, message_id=added.message_id, headers=pairs)
    evidence.added.append(added)
    evidence.added_at[added.message_id] = evidence.committed_at[added.message_id] = float(number)
    evidence.records[topic].append(found)
    evidence.receipts.append(Receipt(added.message_id, topic, 0, found.offset, _fingerprint(found)))
    evidence.moved += [Moved(number, what, added.message_id, number + 0.5) for what in ("left", "receipt")]
    return added


def tell(evidence: Evidence, topic: str, number: int) -> Added:
    """An application, or a result, of this number was published."""
    key, payload = b"%d" % number, (EVENT if topic == APPLICATIONS else RESULT) % number
    headers = [b"content-type", b"application/json", b"ce_source", b"/outbox", b"ce_subject", key]
    return published(evidence, topic, key, payload, headers=headers)


def remembered(evidence: Evidence) -> bool:
    """Does the inbox know when it learned what it knows?"""
    return evidence.inbox.keys() == evidence.remembered_at.keys()


def _try(op_id: str, kind: str, outcome: Outcome, http: int | None = None, number: str | None = None) -> Try:
    return Try(op_id, kind, f"key-{op_id}", None, "", 1.0, 2.0, outcome, http, number)


def innocent() -> Evidence:
    """An application, a refused one, orders of which some were rolled back, a request that came twice, one that came
    under its id with other words, a task.
    """
    evidence = Evidence(
        tries=[
            _try("app-1", "apply", "ok", 201, "1"),
            _try("app-bad", "apply-invalid", "fail", 422),
            _try("app-2", "apply-reused", "fail", 422),
            _try("task-1", "task", "ok", 200, "1"),
            _try("user-1", "user", "ok"),
            _try("user-1", "user-again", "ok"),
            _try("user-1", "user-reused", "ok"),
        ],
        faults=[],
        added=[],
        added_at={},
        committed_at={},
        moved=[],
        receipts=[],
        left=Left(frozenset(), {}),
        records={
            topic: [] for topic in (APPLICATIONS, USERS, REPLIES, DEAD, TASKS, TASKS_DEAD, RESULTS, ERRORS, ORDERS)
        },
        applications=[(1, "app-1: please")],
        idempotency_keys={"key-app-1"},
        users=[(1, "1@example.com")],
        inbox={},
        remembered_at={},
        tasks=[
            Task(1, "phone", "89161234567", cache_key("phone", "89161234567"), "done", 1),
            Task(2, "gpt", "why?", None, "held", None),
        ],
        unknown=Counter(),
        open_attempts=0,
        samples=[],
        committed={"users": {(USERS, 0): 3}, "tasks": {(TASKS, 0): 1}},
        billed={"dadata": ["89161234567"], "yandexgpt": []},
        groups={USERS: "users", TASKS: "tasks"},
        dead_letter_topics={USERS: DEAD, TASKS: TASKS_DEAD},
        topics={
            "applications": APPLICATIONS,
            "users": USERS,
            "replies": REPLIES,
            "tasks": TASKS,
            "results": RESULTS,
            "errors": ERRORS,
            "orders": ORDERS,
        },
    )
    tell(evidence, APPLICATIONS, 1)
    tell(evidence, RESULTS, 1)
    orders = [published(evidence, ORDERS, b"hot", b"order-1 %d" % number) for number in (1, 2)]
    evidence.tries += [
        _try("order-1", "order", "ok", number=" ".join(str(order.message_id) for order in orders)),
        _try("order-2", "order", "fail", number=str(UUID(int=1000))),
    ]
    _requests(evidence)
    return evidence


def _requests(evidence: Evidence) -> None:
    names: Headers = [("ce_id", b"user-1"), ("ce_source", b"/chaos")]
    first_words = b"<Request><ns2:Email>1@example.com</ns2:Email></Request>"
    values = (first_words, first_words, b"other words")
    evidence.records[USERS] = [
        record(USERS, offset, b"client", value, headers=names) for offset, value in enumerate(values)
    ]
    first, _, other = (to_input(each) for each in evidence.records[USERS])
    evidence.records[TASKS] = [record(TASKS, 0, b"2", b'{"task_id": 2, "task_type": "gpt", "data": "why?"}')]
    task = to_input(evidence.records[TASKS][0])
    evidence.inbox = {
        ("tasks", identify(task)): fingerprint(task),
        ("users", identify(first)): fingerprint(first),
        ("users", f"reused:{coordinates(other)}"): fingerprint(other),
    }
    evidence.remembered_at = dict.fromkeys(evidence.inbox, 100.0)
    place = [b"source-topic", USERS.encode(), b"source-partition", b"0", b"source-offset", b"0"]
    envelope = [b"ce_source", b"/outbox", b"content-type", b"application/xml", b"correlation-id", b"1"]
    published(evidence, REPLIES, b"client", _REPLY, headers=[*envelope, *place])
    letter = [b"dlq.reason", b"KEY_REUSED", b"dlq.topic", USERS.encode(), b"dlq.partition", b"0", b"dlq.offset", b"2"]
    letter += [b"ce_source", b"/outbox", b"dlq.consumer", b"users", b"dlq.timestamp", b"0"]
    published(evidence, DEAD, b"client", b"other words", headers=letter)
    evidence.samples.append(Sample(at=200.0, group="users", offsets={(USERS, 0): 3}))
