"""The batches of an answer, and their records in portions, as the client library's parser has them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord

from app.kafka.skim import slices

PORTION = 4096
"""Records, about: a batch is never cut."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """All records with offsets from `first` up to `end`, by offset; there are none but these.

    Records are as the client library's parser has them: `offset`, `timestamp` (milliseconds), `key`, `value`,
    `headers` (`app.kafka.records`).
    """

    records: Sequence[Any]
    first: int
    end: int


def present(raw: bytes, aborted: Sequence[tuple[int, int]] | None) -> tuple[list[tuple[Any, bytes]], int]:
    """The batches of an answer, without markers and what they abort, and the offset after the last of them.

    `aborted`: pairs of a producer and the first offset of its transaction (KIP-98).
    """
    todo = sorted(aborted or (), key=lambda each: each[1], reverse=True)
    aborting: set[int] = set()
    found, following = [], -1
    for batch, part in slices(raw):
        following = batch.next_offset
        if batch.producer_id is not None:
            while todo and todo[-1][1] <= batch.base_offset:
                aborting.add(todo.pop()[0])
        if batch.is_control_batch:
            if aborting and ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER:
                aborting.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in aborting):
            found.append((batch, part))
    return found, following


def chunks(batches: Sequence[tuple[Any, Sequence[Any]]], first: int, end: int) -> Iterator[Chunk]:
    """The records of these batches, which come with them, from `first` up to `end`, some at a time."""
    records: list[Any] = []
    for batch, found in batches:
        records += found
        if len(records) >= PORTION and batch.next_offset < end:
            yield Chunk(_cut(records, first, end), first, batch.next_offset)
            records, first = [], batch.next_offset
    yield Chunk(_cut(records, first, end), first, end)


def _cut(records: list[Any], first: int, end: int) -> list[Any]:
    """A batch may begin before what was asked for, and end behind it."""
    if records and (records[0].offset < first or records[-1].offset >= end):
        return [record for record in records if first <= record.offset < end]
    return records
