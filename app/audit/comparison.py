"""Comparing the records of a partition with its receipts, a chunk at a time.

Where all is as promised, places, message ids and fingerprints of a chunk equal those of its receipts, list by list,
which costs next to nothing. Only a chunk in which they do not is looked at record by record.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from app.audit.case import Case
from app.audit.known import Known
from app.audit.order import UNKNOWN, Order
from app.audit.receipts import Receipt, Receipted
from app.audit.report import Kind
from app.audit.scratch import Unknown
from app.kafka.skim import Skimmed
from app.outbox.fingerprint import content_hashes, key_hashes

_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Stray(NamedTuple):
    message_id: bytes
    offset: int
    timestamp: int
    content: int


class Comparison:
    """Of one partition."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._order = Order(case)

    async def compare(self, chunk: Skimmed, receipts: Receipted) -> None:
        """Compare the next chunk with the receipts of the same offsets."""
        tally = self._case.tally
        tally.records += len(chunk.offsets)
        hashes = key_hashes(chunk.keys)
        contents = content_hashes(hashes, chunk.values)
        if (receipts.offsets, receipts.message_ids, receipts.fingerprints) == (
            chunk.offsets,
            chunk.message_ids,
            contents,
        ):
            numbers, known = receipts.numbers, dict[str, Known]()
            tally.order_unknown += numbers.count(UNKNOWN)
        else:
            numbers, known = await self._one_by_one(chunk, contents, receipts)
        await self._order.check(chunk, hashes, numbers, known)

    async def _one_by_one(
        self, chunk: Skimmed, contents: Sequence[int], receipts: Receipted
    ) -> tuple[list[int], dict[str, Known]]:
        """Find what differs. Returns the ids of the records' messages, and what PostgreSQL knows of some of them."""
        by_offset = {receipt.offset: receipt for receipt in receipts}
        shared = self._shared(receipts) if len(by_offset) < len(receipts) else frozenset[int]()
        missing = by_offset.keys() - set(chunk.offsets)
        self._missing([by_offset[offset] for offset in missing], gone=chunk.gone)
        matched = list(map(by_offset.get, chunk.offsets))
        strays = self._strays(chunk, contents, [index for index, receipt in enumerate(matched) if receipt is None])
        known = await self._case.find({stray.message_id.decode() for stray in strays.values()}) if strays else {}
        numbers = []
        for index, receipt in enumerate(matched):
            if receipt is not None:
                numbers.append(self._receipted(receipt, chunk.message_ids[index], contents[index], shared))
            else:
                numbers.append(self._stray(strays[index], known) if index in strays else UNKNOWN)
        return numbers, known

    def _receipted(self, receipt: Receipt, message_id: bytes | None, content: int, shared: Collection[int]) -> int:
        """It is what its receipt says, or altered, or another message's; the id of its message, or UNKNOWN."""
        offset, expected, fingerprint, number = receipt
        if message_id != expected:
            if offset not in shared:
                self._case.add(Kind.FALSE_RECEIPT, expected, offset, "the record there is another message's")
            return UNKNOWN
        if content != fingerprint:
            self._case.add(Kind.ALTERED, expected, offset)
        self._case.tally.order_unknown += number == UNKNOWN
        return number

    def _strays(self, chunk: Skimmed, contents: Sequence[int], alone: Sequence[int]) -> dict[int, _Stray]:
        """Records that have no receipt at their places, but our headers, by their indices."""
        strays = {}
        for index in alone:
            message_id = chunk.message_ids[index]
            if message_id is None or not _UUID.fullmatch(message_id):
                self._case.tally.foreign += 1
            else:
                strays[index] = _Stray(message_id, chunk.offsets[index], chunk.timestamps[index], contents[index])
        return strays

    def _stray(self, stray: _Stray, known: Mapping[str, Known]) -> int:
        """It was settled since, or is a repeat, or was altered or invented; the id of its message, or UNKNOWN."""
        message_id, offset, timestamp, content = stray
        case, message = self._case, known.get(message_id.decode())
        if message is None:
            case.scratch.keep(Unknown(message_id.decode(), case.partition, offset, timestamp))
            return UNKNOWN
        if message.topic != case.topic:
            case.add(Kind.INVENTED, message_id, offset, f"the message was for {message.topic}")
            return UNKNOWN
        places = message.places
        if places and all(content != place.fingerprint for place in places):
            case.add(Kind.ALTERED, message_id, offset)
        if any(place[:3] == (case.topic, case.partition, offset) for place in places):
            return message.id
        if case.scratch.see(message_id, case.partition, offset) or places:
            case.add(Kind.REPEATED, message_id, offset)
        return message.id

    def _shared(self, receipts: Receipted) -> frozenset[int]:
        """Places with several receipts; at most one of them is true."""
        counts = Counter(receipts.offsets)
        shared = frozenset(offset for offset, count in counts.items() if count > 1)
        for offset, message_id, *_ in receipts:
            if offset in shared and counts[offset] > 1:
                counts[offset] -= 1
                self._case.add(
                    Kind.FALSE_RECEIPT, message_id, offset, "another message's receipt names this place, too"
                )
        return shared

    def _missing(self, receipts: Sequence[Receipt], *, gone: bool) -> None:
        if gone or self._case.compacted:
            self._case.tally.no_longer_there += len(receipts)
            return
        for offset, message_id, *_ in sorted(receipts):
            self._case.add(Kind.LOST, message_id, offset)
