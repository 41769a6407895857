"""Comparing the records of a partition with its receipts, a chunk at a time."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from app.audit.findings import Findings, Where
from app.audit.known import Known
from app.audit.order import KeyOrder
from app.audit.receipts import Receipt
from app.audit.report import Kind
from app.audit.scratch import Scratch, Unknown
from app.kafka.skim import Skimmed
from app.outbox.fingerprint import content_hash, key_hash

Find: TypeAlias = Callable[[Collection[str]], Awaitable[dict[str, Known]]]

_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CLOCKS_MS = 60_000
"""So much may the clocks of relays and database differ."""


@dataclass(slots=True)
class Tally:
    """Numbers of one topic; see `app.audit.report.TopicCounts`."""

    records: int = 0
    receipts: int = 0
    no_longer_there: int = 0
    foreign: int = 0
    beyond_receipts: int = 0
    order_unknown: int = 0


class _Stray(NamedTuple):
    message_id: bytes
    offset: int
    timestamp: int
    content: int


class Comparison:
    """Of one partition. `compacted`: records may go missing in the middle of the log.

    `whole`: nothing ever lay before what is read, so what comes first here is a message's first record.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        findings: Findings,
        tally: Tally,
        scratch: Scratch,
        find: Find,
        compacted: bool,
        whole: bool,
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._findings = findings
        self._tally = tally
        self._scratch = scratch
        self._find = find
        self._compacted = compacted
        self._whole = whole
        self._begins_at: int | None = None
        self._order = KeyOrder(scratch)
        self._suspects: list[tuple[int, bytes]] = []
        """Offsets and message ids of records that are not above the last id of their key."""

    async def compare(self, chunk: Skimmed, receipts: Sequence[Receipt]) -> None:
        """Compare the next chunk with the receipts of the same offsets."""
        offsets, tally = chunk.offsets, self._tally
        tally.records += len(offsets)
        by_offset = {receipt[1]: receipt for receipt in receipts}
        shared = self._shared(receipts) if len(by_offset) < len(receipts) else frozenset[int]()
        matched = list(map(by_offset.get, offsets))
        alone = [index for index, receipt in enumerate(matched) if receipt is None] if None in matched else []
        if len(offsets) - len(alone) < len(by_offset):
            self._missing([by_offset[offset] for offset in by_offset.keys() - set(offsets)], gone=chunk.gone)
        if offsets and self._begins_at is None:
            self._begins_at = chunk.timestamps[0]
        hashes = list(map(key_hash, chunk.keys))
        strays = self._strays(chunk, hashes, alone)
        known = await self._find({stray.message_id.decode() for stray in strays.values()}) if strays else {}
        if self._order.stored:
            self._order.load(hashes)
        self._walk(chunk, hashes, matched, {index: self._stray(each, known) for index, each in strays.items()}, shared)
        if self._suspects:
            await self._judge_order(known)
        self._order.make_room()

    def _walk(
        self,
        chunk: Skimmed,
        hashes: Sequence[int],
        matched: Sequence[Receipt | None],
        strays: Mapping[int, int],
        shared: Collection[int],
    ) -> None:
        """Look at each record. Some 4,000 at a time, so what is done for each is done without calls."""
        last = self._order.last
        get, suspect, contents = last.get, self._suspects.append, map(content_hash, hashes, chunk.values)
        rows = zip(chunk.keys, hashes, contents, chunk.message_ids, matched, strict=True)
        for index, (key, hashed, content, message_id, receipt) in enumerate(rows):
            if receipt is None:
                number = strays.get(index, -1)
            else:
                number = receipt[4]
                if message_id != receipt[2]:
                    self._not_this_one(receipt, shared)
                    continue
                if content != receipt[3]:
                    self._add(Kind.ALTERED, receipt[2], receipt[1])
                if number < 0:
                    self._tally.order_unknown += 1
            if number < 0 or key is None or message_id is None:
                continue
            if number > get(hashed, -1):
                last[hashed] = number
            else:
                suspect((chunk.offsets[index], message_id))

    def _not_this_one(self, receipt: Receipt, shared: Collection[int]) -> None:
        _, offset, message_id, *_ = receipt
        if offset not in shared:
            self._add(Kind.FALSE_RECEIPT, message_id, offset, "the record there is another message's")

    def _strays(self, chunk: Skimmed, hashes: Sequence[int], alone: Sequence[int]) -> dict[int, _Stray]:
        """Records that have no receipt at their places, but our headers, by their indices."""
        strays = {}
        for index in alone:
            message_id = chunk.message_ids[index]
            if message_id is None or not _UUID.fullmatch(message_id):
                self._tally.foreign += 1
                continue
            content = content_hash(hashes[index], chunk.values[index])
            strays[index] = _Stray(message_id, chunk.offsets[index], chunk.timestamps[index], content)
        return strays

    def _stray(self, stray: _Stray, known: Mapping[str, Known]) -> int:
        """It was settled since, or is a repeat, or was altered or invented; the id of its message, or -1."""
        message_id, offset, timestamp, content = stray
        partition = self._partition
        message = known.get(message_id.decode())
        if message is None:
            self._scratch.keep(Unknown(message_id.decode(), partition, offset, timestamp))
            return -1
        if message.topic != self._topic:
            self._add(Kind.INVENTED, message_id, offset, f"the message was for {message.topic}")
            return -1
        places = message.places
        if places and all(content != place.fingerprint for place in places):
            self._add(Kind.ALTERED, message_id, offset)
        if any(place[:3] == (self._topic, partition, offset) for place in places):
            return message.id
        if self._scratch.see(message_id, partition, offset) or places:
            self._add(Kind.REPEATED, message_id, offset)
        return message.id

    def _shared(self, receipts: Sequence[Receipt]) -> frozenset[int]:
        """Places with several receipts; at most one of them is true."""
        counts = Counter(receipt[1] for receipt in receipts)
        shared = frozenset(offset for offset, count in counts.items() if count > 1)
        for _, offset, message_id, *_ in receipts:
            if offset in shared and counts[offset] > 1:
                counts[offset] -= 1
                self._add(Kind.FALSE_RECEIPT, message_id, offset, "another message's receipt names this place, too")
        return shared

    def _missing(self, receipts: Sequence[Receipt], *, gone: bool) -> None:
        if gone or self._compacted:
            self._tally.no_longer_there += len(receipts)
            return
        for _, offset, message_id, *_ in sorted(receipts):
            self._add(Kind.LOST, message_id, offset)

    async def _judge_order(self, known: Mapping[str, Known]) -> None:
        """Each suspect is a repeat, or was decided on by people, or cannot be told, or is out of order."""
        suspects, self._suspects = self._suspects, []
        known = {**known, **await self._find({message_id.decode() for _, message_id in suspects} - known.keys())}
        for offset, message_id in suspects:
            message = known.get(message_id.decode())
            if message is None or message.decided:
                continue
            first = self._scratch.first(message_id, self._partition)
            receipted = any(
                place[:2] == (self._topic, self._partition) and place.offset < offset for place in message.places
            )
            if receipted or (first is not None and first < offset):
                continue
            # An earlier record of it may lie before what is read, unless the message is younger than that.
            if self._whole or (
                self._begins_at is not None and message.created_at.timestamp() * 1000 > self._begins_at + _CLOCKS_MS
            ):
                self._add(Kind.OUT_OF_ORDER, message_id, offset)
            else:
                self._tally.order_unknown += 1

    def _add(self, kind: Kind, message_id: bytes, offset: int, detail: str = "") -> None:
        self._findings.add(kind, message_id, Where(self._topic, self._partition, offset), detail)
