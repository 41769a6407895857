"""The record's headers: CloudEvents 1.0 in Kafka's binary mode, then the message's own, byte for byte."""

import pytest
from aiokafka.record.memory_records import MemoryRecords

from app.outbox.headers import stored
from relay.outcomes import OwedMessage
from relay.records import pack
from tests.contract.carrying import message


def sent(each: OwedMessage) -> list[tuple[str, bytes]]:
    """The headers of the message's record, as a consumer has them."""
    packed, _ = pack([each], 0, 1, timestamp=0, compression="none", size=1)
    batch = MemoryRecords(bytes(packed.encode(1, 0, 0))).next_batch()
    assert batch is not None
    (record,) = batch
    headers: list[tuple[str, bytes]] = list(record.headers)
    return headers


def test_the_attributes_of_cloudevents_come_first() -> None:
    each = message("topic", b"k", b"v", b"content-type", b"text/plain")._replace(type="task.créated")
    assert sent(each) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", each.message_id.encode()),
        ("ce_type", "task.créated".encode()),
        ("ce_time", b"2026-01-02T03:04:05.678901Z"),
        ("content-type", b"text/plain"),
    ]


@pytest.mark.parametrize(
    ("microseconds", "expected"),
    [
        (1_767_323_045_678_901, b"2026-01-02T03:04:05.678901Z"),
        (1_767_323_045_000_070, b"2026-01-02T03:04:05.000070Z"),
        (1_767_323_045_000_000, b"2026-01-02T03:04:05.000000Z"),
        (-1, b"1969-12-31T23:59:59.999999Z"),
    ],
)
def test_the_time_is_as_rfc_3339_wants_it(microseconds: int, expected: bytes) -> None:
    assert dict(sent(message("topic")._replace(created_at=microseconds)))["ce_time"] == expected


@pytest.mark.parametrize("number", [1, 2, 32, 33, 100])
def test_own_headers_keep_their_order_and_their_repetitions(number: int) -> None:
    own = [("b", b"1"), ("a", b""), ("b", b"\x00\xff"), ("длинное", b"x" * 100)][:number] * max(1, number // 4)
    for headers in stored(own), [part for name, value in own for part in (name.encode(), value)]:
        assert sent(message("topic")._replace(headers=headers))[4:] == own


def test_few_headers_are_stored_as_one_part_and_none_as_none() -> None:
    assert len(stored([("a", b"1")] * 32)) == 1
    assert len(stored([("a", b"1")] * 33)) == 66
    assert stored([]) == []


def test_a_name_that_is_no_text_does_not_stop_the_message() -> None:
    each = message("topic", b"k", b"v", b"\xff\xfe", b"1")
    assert sent(each)[4:] == [("��", b"1")]
