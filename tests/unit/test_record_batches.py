"""Batches as the relay packs them, against those of the client library."""

from collections.abc import Sequence
from random import Random
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from app.outbox.headers import stored
from relay.outcomes import OwedMessage
from relay.records import BATCH_BYTES, OVERHEAD, RecordBatch, pack
from tests.contract.carrying import message
from tests.record_headers import record_headers

NOW = 1_700_000_000_123
PRODUCER = 4711, 3, 99

_LENGTHS = st.sampled_from([0, 1, 63, 64, 8191, 8192, 20_000])
_BYTES = st.one_of(st.none(), st.binary(max_size=70), _LENGTHS.map(bytes))
_HEADERS = st.lists(st.tuples(st.text(max_size=70), st.binary(max_size=70)), max_size=40)
_MOMENTS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


@st.composite
def _messages(draw: st.DrawFn) -> OwedMessage:
    named = draw(_HEADERS.filter(lambda headers: all(_is_text(name) for name, _ in headers)))
    pairs = [part for name, value in named for part in (name.encode(), value)]
    return message("t", draw(_BYTES), draw(_BYTES))._replace(
        headers=stored(named) if draw(st.booleans()) else pairs, created_at=draw(_MOMENTS), type=draw(st.text())
    )


def _is_text(name: str) -> bool:
    return name.isprintable()


def _packed(messages: Sequence[OwedMessage], compression: str = "none", size: int = 1 << 30) -> RecordBatch:
    batch, stop = pack(messages, 0, len(messages), timestamp=NOW, compression=compression, size=size)
    assert (stop, batch.count) == (len(messages), len(messages))
    return batch


def _by_the_library(messages: Sequence[OwedMessage], codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, *PRODUCER, 1 << 30)
    for number, each in enumerate(messages):
        builder.append(number, NOW, each.key, each.payload, record_headers(each))
    return bytes(builder.build())


def _records(raw: bytes | bytearray) -> list[tuple[Any, ...]]:
    found = []
    memory = MemoryRecords(bytes(raw))
    while memory.has_next():
        batch = memory.next_batch()
        assert batch is not None
        assert batch.validate_crc()
        found += [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in batch]
    return found


@settings(deadline=None)  # some examples are large
@given(st.lists(_messages(), min_size=1, max_size=70))
def test_it_is_what_the_library_builds_to_the_byte(messages: list[OwedMessage]) -> None:
    assert _packed(messages).encode(*PRODUCER) == _by_the_library(messages)


@settings(deadline=None)
@given(st.lists(_messages(), min_size=1, max_size=9))
def test_compressed_it_has_the_same_records(messages: list[OwedMessage]) -> None:
    assert _records(_packed(messages, "zstd").encode(*PRODUCER)) == _records(_by_the_library(messages, codec=4))


def test_more_records_than_ready_made_numbers() -> None:
    messages = [message("t", b"k", b"%d" % number) for number in range(9000)]
    assert _packed(messages).encode(*PRODUCER) == _by_the_library(messages)


def test_compressed_it_is_smaller_and_says_so() -> None:
    messages = [message("t", b"k", b"words and words " * 20) for _ in range(100)]
    plain, small = _packed(messages).encode(*PRODUCER), _packed(messages, "zstd").encode(*PRODUCER)
    assert len(small) < len(plain) / 4
    assert (plain[22] & 7, small[22] & 7) == (0, 4)


def test_what_compression_would_make_larger_goes_as_it_is() -> None:
    noise = message("t", b"k", Random(1).randbytes(1100))
    assert _packed([noise], "zstd").encode(*PRODUCER) == _packed([noise]).encode(*PRODUCER)


def test_a_small_batch_goes_as_it_is() -> None:
    small, large = ([message("t", b"k", b" " * length)] for length in (700, 1100))
    assert _packed(small, "zstd").encode(*PRODUCER) == _packed(small).encode(*PRODUCER)
    assert len(_packed(large, "zstd").encode(*PRODUCER)) < 500


def test_a_batch_ends_before_it_is_too_large() -> None:
    messages = [message("t", b"k", bytes(1000)) for _ in range(1000)]
    batch, stop = pack(messages, 0, 1000, timestamp=NOW, compression="none", size=BATCH_BYTES)
    assert BATCH_BYTES - 1200 < len(batch.encode(*PRODUCER)) <= BATCH_BYTES
    assert batch.count == stop < 1000
    rest, end = pack(messages, stop, 1000, timestamp=NOW, compression="none", size=1 << 30)
    assert (rest.count, end) == (1000 - stop, 1000)
    sent = [value for *_, value, _ in _records(batch.encode(*PRODUCER)) + _records(rest.encode(*PRODUCER))]
    assert sent == [each.payload for each in messages]


def test_the_first_message_is_taken_whatever_its_size() -> None:
    messages = [message("t", b"k", bytes(5000)) for _ in range(2)]
    batch, stop = pack(messages, 0, 2, timestamp=NOW, compression="none", size=OVERHEAD)
    assert (batch.count, stop) == (1, 1)
