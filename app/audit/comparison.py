"""Comparing the records of a partition with its receipts, a chunk at a time."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from app.audit.findings import Findings
from app.audit.known import Known
from app.audit.order import KeyOrder
from app.audit.receipts import Receipt
from app.audit.report import Kind
from app.audit.scratch import Scratch, Unknown
from app.kafka.log import Chunk
from app.outbox.fingerprint import content_hash, key_hash

Find: TypeAlias = Callable[[Collection[str]], Awaitable[dict[str, Known]]]

_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CLOCKS = timedelta(minutes=1)
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


def message_id_of(headers: Sequence[tuple[str, bytes | None]]) -> bytes | None:
    """The message id of a record that has our headers; None for somebody else's."""
    found = dict(headers)
    message_id = found.get("ce_id")
    ours = "ce_specversion" in found and message_id is not None and _UUID.fullmatch(message_id)
    return message_id if ours else None


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
        self._begins_at: datetime | None = None
        self._order = KeyOrder(scratch)

    async def compare(self, chunk: Chunk, receipts: Sequence[Receipt]) -> None:
        """Compare the next chunk with the receipts of the same offsets."""
        records, tally = chunk.records, self._tally
        tally.records += len(records)
        by_offset = {receipt[1]: receipt for receipt in receipts}
        shared = self._shared(receipts) if len(by_offset) < len(receipts) else frozenset[int]()
        offsets = [record.offset for record in records]
        matched = list(map(by_offset.get, offsets))
        strays = (
            [each for each, receipt in zip(records, matched, strict=True) if receipt is None] if None in matched else []
        )
        if len(records) - len(strays) < len(by_offset):
            self._missing([by_offset[offset] for offset in by_offset.keys() - set(offsets)], gone=chunk.gone)
        if records and self._begins_at is None:
            self._begins_at = datetime.fromtimestamp(records[0].timestamp / 1000).astimezone()
        ids = {record.offset: message_id_of(record.headers) for record in strays}
        tally.foreign += sum(name is None for name in ids.values())
        names = {name.decode() for name in ids.values() if name is not None}
        known = await self._find(names) if names else {}
        if self._order.stored:
            self._order.load(key_hash(record.key) for record in records)
        suspects = self._walk(records, matched, ids, known, shared)
        if suspects:
            await self._judge_order(suspects, known)
        self._order.make_room()

    def _walk(
        self,
        records: Sequence[Any],
        matched: Sequence[Receipt | None],
        ids: dict[int, bytes | None],
        known: dict[str, Known],
        shared: Collection[int],
    ) -> list[tuple[int, bytes]]:
        """Look at each record; those, by offset and message id, that are not above the last id of their key."""
        last, suspects = self._order.last, []
        get = last.get
        for record, receipt in zip(records, matched, strict=True):
            key = record.key
            hashed = key_hash(key)
            content = content_hash(hashed, record.value)
            if receipt is None:
                message_id = ids[record.offset]
                number = -1 if message_id is None else self._stray(record, message_id, content, known)
                if message_id is None or number < 0:
                    continue
            else:
                _, offset, message_id, fingerprint, number = receipt
                headers = record.headers
                # Where the relay puts it; one who forges may put it anywhere.
                if len(headers) < 2 or headers[1] != ("ce_id", message_id):  # noqa: PLR2004
                    if message_id_of(headers) != message_id:
                        if offset not in shared:
                            self._add(Kind.FALSE_RECEIPT, message_id, offset, "the record there is another message's")
                        continue
                if content != fingerprint:
                    self._add(Kind.ALTERED, message_id, offset)
                if number < 0:
                    self._tally.order_unknown += 1
                    continue
            if key is None:
                continue
            if number > get(hashed, -1):
                last[hashed] = number
            else:
                suspects.append((record.offset, message_id))
        return suspects

    def _stray(self, record: Any, message_id: bytes, content: int, known: dict[str, Known]) -> int:
        """A record that had no receipt when they were read: settled since, a repeat, or invented; the message's id."""
        offset, partition = record.offset, self._partition
        message = known.get(message_id.decode())
        if message is None:
            self._scratch.keep(Unknown(message_id.decode(), partition, offset, record.timestamp))
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

    async def _judge_order(self, suspects: Sequence[tuple[int, bytes]], known: dict[str, Known]) -> None:
        """Each is a repeat, or was decided on by people, or cannot be told, or is out of order."""
        known = known | await self._find({message_id.decode() for _, message_id in suspects} - known.keys())
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
            if self._whole or (self._begins_at is not None and message.created_at > self._begins_at + _CLOCKS):
                self._add(Kind.OUT_OF_ORDER, message_id, offset)
            else:
                self._tally.order_unknown += 1

    def _add(self, kind: Kind, message_id: bytes, offset: int, detail: str = "") -> None:
        self._findings.add(kind, message_id, self._topic, self._partition, offset, detail)
