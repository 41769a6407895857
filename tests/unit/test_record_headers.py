"""The record's headers: CloudEvents 1.0 in Kafka's binary mode, then the message's own, byte for byte."""

import pytest

from relay.publisher import record_headers
from tests.contract.carrying import message


def test_the_attributes_of_cloudevents_come_first() -> None:
    each = message("topic", b"k", b"v", b"content-type", b"text/plain")._replace(
        message_id="an id", type="task.créated"
    )
    assert record_headers(each) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"an id"),
        ("ce_type", "task.créated".encode()),
        ("ce_time", b"2026-01-02T03:04:05.678901Z"),
        ("content-type", b"text/plain"),
    ]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (1_767_323_045_678_901, b"2026-01-02T03:04:05.678901Z"),
        (1_767_323_045_670_000, b"2026-01-02T03:04:05.67Z"),
        (1_767_323_045_000_001, b"2026-01-02T03:04:05.000001Z"),
        (1_767_323_045_000_000, b"2026-01-02T03:04:05Z"),
        (-500_000, b"1969-12-31T23:59:59.5Z"),
        (-62_135_596_800_000_000, b"0001-01-01T00:00:00Z"),
        (253_402_300_799_999_999, b"9999-12-31T23:59:59.999999Z"),
    ],
)
def test_the_time_is_as_rfc_3339_wants_it(moment: int, expected: bytes) -> None:
    assert dict(record_headers(message("topic")._replace(created_at=moment)))["ce_time"] == expected


def test_own_headers_keep_their_order_and_their_repetitions() -> None:
    each = message("topic", b"k", b"v", b"b", b"1", b"a", b"", b"b", b"\x00\xff")
    assert record_headers(each)[4:] == [("b", b"1"), ("a", b""), ("b", b"\x00\xff")]


def test_a_name_that_is_no_text_does_not_stop_the_message() -> None:
    each = message("topic", b"k", b"v", b"\xff\xfe", b"1")
    assert record_headers(each)[4:] == [("��", b"1")]
