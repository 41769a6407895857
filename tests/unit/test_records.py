"""The records of a batch, taken apart by hand where the client library cannot."""

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kafka import records as module
from app.kafka.records import is_unreadable, records
from app.kafka.skim import slices
from tests.raw_batches import NOT_UTF8, Record, batch, flawed

_BYTES = st.one_of(st.none(), st.binary(max_size=5), st.integers(0, 20_000).map(bytes))
_RECORDS = st.lists(
    st.tuples(_BYTES, _BYTES, st.lists(st.tuples(st.sampled_from(["", "x", "длинное имя" * 9]), _BYTES), max_size=4)),
    min_size=1,
    max_size=70,
)


def _fields(record: Any) -> tuple[object, ...]:
    return record.offset, record.timestamp, record.key, record.value, list(record.headers)


@settings(deadline=None)  # some examples are large
@given(_RECORDS, st.booleans())
def test_by_hand_it_is_what_the_library_reads(given_records: list[Record], zstd: bool) -> None:
    ((read, raw),) = slices(batch(given_records, zstd=zstd))
    by_hand = list(module._take_apart(read, raw))
    assert [_fields(each) for each in by_hand] == [_fields(each) for each in read]
    assert not any(map(is_unreadable, by_hand))


@pytest.mark.parametrize("zstd", [False, True])
def test_only_the_record_with_the_bad_name_is_unreadable(zstd: bool) -> None:
    sent = [(b"1", b"one", [("имя", b"")]), flawed(b"two", ("ce_id", b"2"), ("nothing", None)), (b"3", b"three", [])]
    whole = batch(sent, zstd=zstd, first_timestamp=1_700_000_000_000)
    with pytest.raises(Exception, match="utf-8"):
        list(slices(whole)[0][0])
    ((read, raw),) = slices(whole)
    found = records(read, raw)
    assert [is_unreadable(each) for each in found] == [False, True, False]
    assert [_fields(each) for each in found] == [
        (0, 1_700_000_000_000, b"1", b"one", [("имя", b"")]),
        (1, 1_700_000_000_001, b"flawed", b"two", [("caf\\xe9-bar", b"content"), ("ce_id", b"2"), ("nothing", None)]),
        (2, 1_700_000_000_002, b"3", b"three", []),
    ]


def test_the_time_of_the_broker_goes_before_that_of_the_records() -> None:
    raw = bytearray(batch([flawed(b"1"), flawed(b"2")], first_timestamp=1_700_000_000_000))
    raw[22] |= 8
    ((read, part),) = slices(bytes(raw))
    assert [each.timestamp for each in records(read, part)] == [1_700_000_000_001] * 2


def test_a_record_of_another_length_than_it_says_is_an_error() -> None:
    raw = bytearray(batch([flawed(b"value")]))
    raw[61] -= 2  # zigzag: shorter by one
    ((read, part),) = slices(bytes(raw))
    with pytest.raises(ValueError, match="not as long"):
        records(read, part)


def test_a_literal_escape_is_a_name_like_any_other() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, 1, None, b"", [(NOT_UTF8.decode("utf-8", "backslashreplace"), b"")])
    ((read, raw),) = slices(bytes(builder.build()))
    assert not any(map(is_unreadable, module._take_apart(read, raw)))
