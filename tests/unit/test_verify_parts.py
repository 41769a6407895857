"""Parts of the auditor that need no services."""

import asyncio
import random
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audit.findings import Findings, Where
from app.audit.order import KeyOrder
from app.audit.receipts import Receipts
from app.audit.report import Kind
from app.audit.scratch import Scratch, Unknown
from app.outbox.fingerprint import content_hash, content_hashes, fingerprint, key_hash, key_hashes

_BYTES = st.one_of(st.none(), st.binary())


@given(_BYTES, _BYTES)
def test_both_ways_to_a_fingerprint_agree(key: bytes | None, payload: bytes | None) -> None:
    assert content_hash(key_hash(key), payload) == fingerprint(SimpleNamespace(key=key, payload=payload)) % (1 << 64)


@given(st.lists(st.tuples(_BYTES, _BYTES)))
def test_fingerprints_of_many_are_those_of_each(contents: list[tuple[bytes | None, bytes | None]]) -> None:
    hashes = key_hashes([key for key, _ in contents])
    assert hashes == [key_hash(key) for key, _ in contents]
    found = content_hashes(hashes, [payload for _, payload in contents])
    assert found == [content_hash(key_hash(key), payload) for key, payload in contents]


def test_absent_is_not_empty() -> None:
    contents = [(None, None), (None, b""), (b"", None), (b"", b"")]
    assert len({fingerprint(SimpleNamespace(key=key, payload=payload)) for key, payload in contents}) == len(contents)


def _copied(rows: list[tuple[int, int]]) -> bytes:
    """What COPY says of receipts at these places."""
    body = b"".join(
        struct.pack(">hiiiqi36siQiq", 5, 4, partition, 8, offset, 36, b"%036d" % offset, 8, (1 << 64) - 1, 8, -1)
        for partition, offset in rows
    )
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + body + b"\xff\xff"


@pytest.mark.parametrize("size", [1, 7, 19, 86, 1000, 100_000])
async def test_receipts_come_whole_however_they_are_cut(size: int) -> None:
    places = [(partition, offset) for partition in (0, 2) for offset in range(0, 600, 3)]
    copied = _copied(places)
    pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    for start in range(0, len(copied), size):
        pieces.put_nowait(copied[start : start + size])
    pieces.put_nowait(None)
    receipts = Receipts(pieces)
    found = [await receipts.until(0, 30), await receipts.until(0, 30), await receipts.until(0, 1000)]
    assert [rows.offsets for rows in found] == [list(range(0, 30, 3)), [], list(range(30, 600, 3))]
    assert list(found[0])[1] == (3, b"%036d" % 3, (1 << 64) - 1, -1)
    assert await receipts.skip(2, 10) == 4
    assert len(await receipts.until(2, 1000)) == 196
    assert (receipts.taken, len(await receipts.until(3, 1000))) == (400, 0)


async def test_whoever_asks_for_receipts_hears_of_errors() -> None:
    pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    pieces.put_nowait(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await Receipts(pieces).until(0, 1)


@pytest.mark.parametrize("most", [1, 5, 1000])
def test_the_last_ids_of_keys_are_the_same_on_disk(most: int) -> None:
    dice = random.Random(most)
    truth: dict[int, int] = {}
    with Scratch() as scratch:
        order = KeyOrder(scratch, most)
        for _ in range(300):
            hashes = [dice.choice([dice.getrandbits(64) & ~0xF0, n]) for n in range(4)]
            if order.stored:
                order.load(hashes)
            for each in hashes:
                assert order.last.get(each) == truth.get(each)
                truth[each] = order.last[each] = dice.getrandbits(40)
            order.make_room()
            assert len(order.last) <= most
        assert order.stored is (most < 1000)
        other = KeyOrder(scratch, most)
        other.load(truth)
        assert other.last == {}


def test_the_scratch_remembers_first_places() -> None:
    with Scratch() as scratch:
        assert not scratch.see(b"a", 0, 5)
        assert scratch.see(b"a", 0, 9)
        assert scratch.see(b"a", 1, 2)
        assert (scratch.first(b"a", 0), scratch.first(b"a", 1), scratch.first(b"b", 0)) == (5, 2, None)
        rows = [Unknown("x", 0, number, number * 10) for number in range(5)]
        for row in rows:
            scratch.keep(row)
        assert scratch.forget_unknown(20) == (2, 3)
        assert list(scratch.unknown(2)) == [rows[2:4], rows[4:]]


def test_findings_keep_a_few_examples_and_say_what_breaks_the_promise() -> None:
    findings = Findings(2)
    for number in range(3):
        findings.add(Kind.REPEATED, b"id", Where("t", 0, number))
    (allowed,) = findings.as_findings(None)
    assert (allowed.count, [each.offset for each in allowed.examples], allowed.violation) == (3, [0, 1], False)
    assert [findings.as_findings(most)[0].violation for most in (2, 3)] == [True, False]
    findings.add_all(Kind.LOST, 7, list(allowed.examples) * 2)
    lost, _ = findings.as_findings(None)
    assert (lost.kind, lost.count, len(lost.examples), lost.violation) == (Kind.LOST, 7, 2, True)
