"""Taking batches apart by hand finds what the client library finds."""

import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kafka.skim import Skimmed, skim, slices, unpack

_ID = b"01890a5d-ac96-774b-bcce-b302099a8057"
_OURS = [("ce_specversion", b"1.0"), ("ce_id", _ID), ("ce_type", b"t")]
_SOMETIMES_LONG = st.one_of(st.binary(max_size=5), st.integers(0, 20_000).map(bytes))
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_specversion", "ce_id", "ce_type", "", "x", "длинное имя" * 9]),
        st.one_of(st.none(), st.sampled_from([_ID, b"1.0"]), _SOMETIMES_LONG),
    ),
    max_size=6,
)
_RECORD = st.fixed_dictionaries(
    {
        "timestamp": st.integers(1_700_000_000_000, 1_700_100_000_000),
        "key": st.one_of(st.none(), _SOMETIMES_LONG),
        "value": st.one_of(st.none(), _SOMETIMES_LONG),
        "headers": st.one_of(_HEADERS, _HEADERS.map(lambda others: [*_OURS, *others])),
    }
)


def _batch(records: list[dict[str, Any]], *, codec: int = 0, base: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 30)
    for delta, record in enumerate(records):
        assert builder.append(delta, **record) is not None
    return struct.pack(">q", base) + bytes(builder.build())[8:]


def _skimmed(raw: bytes, first: int = 0, end: int = 1 << 62) -> Skimmed:
    result = Skimmed(0, first, end)
    for batch, part in slices(raw):
        skim(unpack(batch, part), result)
    result.cut(first, end)
    return result


def _message_id(headers: list[tuple[str, bytes | None]]) -> bytes | None:
    values: dict[str, bytes] = {}
    for name, value in headers:
        if value is not None:
            values.setdefault(name, value)
    return values.get("ce_id") if "ce_specversion" in values else None


@settings(deadline=None)  # some examples are large
@given(st.lists(st.lists(_RECORD, min_size=1, max_size=80), min_size=1, max_size=3), st.sampled_from([0, 1, 2, 3, 4]))
def test_it_finds_what_the_client_library_finds(batches: list[list[dict[str, Any]]], codec: int) -> None:
    raw = b"".join(_batch(each, codec=codec, base=number * 1000) for number, each in enumerate(batches))
    expected = [(record, batch.max_timestamp) for batch, _ in slices(raw) for record in batch]
    found = _skimmed(raw)
    assert found.offsets == [record.offset for record, _ in expected]
    assert found.keys == [record.key for record, _ in expected]
    assert found.values == [record.value for record, _ in expected]
    assert found.message_ids == [_message_id(record.headers) for record, _ in expected]
    assert found.timestamps == [timestamp for _, timestamp in expected]


def test_many_records_have_long_numbers() -> None:
    record = {"timestamp": 1_700_000_000_000, "key": b"k", "value": b"v", "headers": _OURS}
    found = _skimmed(_batch([record] * 20_000, codec=4, base=5))
    assert found.offsets == list(range(5, 20_005))
    assert found.message_ids == [_ID] * 20_000


def test_what_compaction_took_out_is_not_there() -> None:
    left = [0, 3, 70, 9000]
    builder = DefaultRecordBatchBuilder(2, 4, 0, -1, -1, -1, 1 << 30)
    for offset in left:
        builder.append(offset, 1_700_000_000_000, b"%d" % offset, b"v", list(_OURS))
    found = _skimmed(struct.pack(">q", 5) + bytes(builder.build())[8:])
    assert found.offsets == [5 + offset for offset in left]
    assert found.keys == [b"%d" % offset for offset in left]


def test_only_what_was_asked_for() -> None:
    record = {"timestamp": 1, "key": b"k", "value": b"v", "headers": []}
    found = _skimmed(_batch([record] * 10), 3, 5)
    assert (found.offsets, found.first, found.end) == ([3, 4], 3, 5)
    assert [len(each) for each in (found.timestamps, found.keys, found.values, found.message_ids)] == [2] * 4


@pytest.mark.parametrize("magic", [0, 1])
def test_older_formats_have_no_headers(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 0, 10_000)
    for offset in range(3):
        builder.append(offset, timestamp=5, key=b"k", value=b"%d" % offset)
    found = _skimmed(bytes(builder.build()))
    assert (found.offsets, found.values) == ([0, 1, 2], [b"0", b"1", b"2"])
    assert found.message_ids == [None] * 3


def test_a_batch_that_is_cut_off_is_not_there() -> None:
    raw = _batch([{"timestamp": 1, "key": None, "value": b"v", "headers": []}])
    assert _skimmed(raw + raw[:-1]).offsets == [0]


@pytest.mark.parametrize(("records", "last"), [(9, 0), (9, 8), (1, 0)])
def test_bytes_that_are_no_records_are_an_error(records: int, last: int) -> None:
    record = {"timestamp": 1, "key": b"k", "value": b"v", "headers": []}
    raw = bytearray(_batch([record] * 2))
    raw[60], raw[26] = records, last  # how many there are, and the last one's offset, says the header
    with pytest.raises(IndexError):
        _skimmed(bytes(raw))
