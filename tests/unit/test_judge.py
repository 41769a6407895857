"""The judge must find each kind of guilt, or no test that relies on it means anything."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

import pytest
from aiokafka import ConsumerRecord
from xxhash import xxh3_64_intdigest

from tests.judge import Left, Receipt, judge
from tests.ledger import Added
from tests.services.kafka import Record

NOTHING = Left(frozenset(), {})


@dataclass
class Case:
    added: list[Added]
    records: list[Record]
    receipts: list[Receipt]
    left: Left = NOTHING

    def judge(self) -> None:
        judge(self.added, self.records, self.receipts, self.left)


def message(number: int) -> Added:
    return Added(number, UUID(int=number), "t", b"k", [b"h", b"v"], b"%d" % number, "happened")


def record(added: Added, offset: int) -> Record:
    headers = [("ce_specversion", b"1.0"), ("ce_id", str(added.message_id).encode()), ("ce_type", b"happened")]
    return ConsumerRecord(
        topic="t",
        partition=0,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=added.key,
        value=added.payload,
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=1,
        headers=(*headers, ("ce_time", b"2026-01-02T03:04:05.6Z"), ("h", b"v")),
    )


def receipt(added: Added, offset: int) -> Receipt:
    assert added.key is not None
    assert added.payload is not None
    return Receipt(added.message_id, "t", 0, offset, xxh3_64_intdigest(added.payload, xxh3_64_intdigest(added.key)))


def innocent() -> Case:
    added = [message(1), message(2), message(3)]
    return Case(
        added,
        [record(each, offset) for offset, each in enumerate(added)],
        [receipt(each, offset) for offset, each in enumerate(added)],
    )


def lose(case: Case) -> None:
    del case.records[2]


def lose_with_receipt(case: Case) -> None:
    del case.records[2], case.receipts[2]


def invent(case: Case) -> None:
    case.records.append(record(message(9), 3))


def repeat(case: Case) -> None:
    case.records.append(record(case.added[0], 3))


def swap(case: Case) -> None:
    a, b = case.added[0], case.added[1]
    case.records[:2] = [record(b, 0), record(a, 1)]
    case.receipts[:2] = [receipt(b, 0), receipt(a, 1)]


def move_to_another_partition(case: Case) -> None:
    case.records[2] = replace(case.records[2], partition=1)
    case.receipts[2] = case.receipts[2]._replace(partition=1)


def change_value(case: Case) -> None:
    case.records[0] = replace(case.records[0], value=b"other")


def drop_header(case: Case) -> None:
    case.records[0] = replace(case.records[0], headers=case.records[0].headers[:4])


def lie_in_receipt(case: Case) -> None:
    case.receipts[0] = case.receipts[0]._replace(offset=2)


def point_nowhere(case: Case) -> None:
    case.receipts[0] = case.receipts[0]._replace(offset=99)


def change_fingerprint(case: Case) -> None:
    case.receipts[0] = case.receipts[0]._replace(fingerprint=5)


def keep_delivered(case: Case) -> None:
    case.left = Left(frozenset({case.added[0].message_id}), {})


def bury(case: Case) -> None:
    case.left = Left(frozenset(), {case.added[0].message_id: "MESSAGE_TOO_LARGE"})
    del case.receipts[0]


def test_an_innocent_run_is_not_blamed() -> None:
    innocent().judge()


@pytest.mark.parametrize(
    ("crime", "text"),
    [
        (lose, "is lost|names no record"),
        (lose_with_receipt, "one of them must be 1"),
        (invent, "invented"),
        (repeat, "1 repeats, at most 0"),
        (swap, "1 came after 2"),
        (move_to_another_partition, "two partitions"),
        (change_value, "changed"),
        (drop_header, "headers"),
        (lie_in_receipt, "names the record of"),
        (point_nowhere, "names no record"),
        (change_fingerprint, "fingerprint"),
        (keep_delivered, "one of them must be 1"),
        (bury, "dead letters"),
    ],
)
def test_each_crime_is_found(crime: Callable[[Case], None], text: str) -> None:
    case = innocent()
    crime(case)
    with pytest.raises(AssertionError, match=text):
        case.judge()
