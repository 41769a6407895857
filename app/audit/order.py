"""Do the ids of a key's messages rise? What comes first in a topic must have a larger id than what lies before it.

For one key, id order is commit order (design §3), so a record whose id is not above the last one of its key is either
a repeat or out of order. Keys are 64 bits of their hash.
"""

from collections.abc import Iterable, Mapping, Sequence

from app.audit.case import Case
from app.audit.known import Known
from app.audit.report import Kind
from app.audit.scratch import Scratch
from app.kafka.skim import Skimmed

UNKNOWN = -1
"""The id of a message that nobody has kept."""

_MOST = 500_000
"""Keys in memory: about 60 MB. More than these are put on disk, and looked up there when they come again."""
_CLOCKS_MS = 60_000
"""So much may the clocks of relays and database differ."""


class KeyOrder:
    """The largest id so far of each key of a partition. `last` is read and written directly: a call for each record
    would cost too much.
    """

    def __init__(self, scratch: Scratch, most: int = _MOST) -> None:
        scratch.forget_keys()
        self.last: dict[int, int] = {}
        self._scratch = scratch
        self._most = most
        self.stored = False
        """Are there keys on disk? Then `load` comes before looking at `last`."""

    def load(self, hashes: Iterable[int]) -> None:
        """Bring back what is known of these keys."""
        missing = set(hashes) - self.last.keys()
        if missing:
            self.last.update(self._scratch.load_keys(missing))

    def make_room(self) -> None:
        """To be called now and then."""
        if len(self.last) > self._most:
            self._scratch.store_keys(self.last.items())
            self.last.clear()
            self.stored = True


class Order:
    """Judges the order of a partition's records."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._keys = KeyOrder(case.scratch)
        self._begins_at: int | None = None

    async def check(
        self, chunk: Skimmed, hashes: Sequence[int], numbers: Sequence[int], known: Mapping[str, Known]
    ) -> None:
        """Look at the next chunk: the hashes of its keys, the ids of its messages, and what was looked up of them."""
        if chunk.offsets and self._begins_at is None:
            self._begins_at = chunk.timestamps[0]
        if self._keys.stored:
            self._keys.load(hashes)
        last = self._keys.last
        get = last.get
        suspects = []
        for index, (hashed, number) in enumerate(zip(hashes, numbers, strict=True)):
            if number > get(hashed, UNKNOWN):
                last[hashed] = number
            elif number != UNKNOWN:
                suspects.append(index)
        self._keys.make_room()
        if suspects:
            await self._judge(chunk, suspects, known)

    async def _judge(self, chunk: Skimmed, suspects: Sequence[int], known: Mapping[str, Known]) -> None:
        """Each is a repeat, or was decided on by people, or cannot be told, or is out of order."""
        case, message_ids = self._case, {}
        for index in suspects:
            message_id = chunk.message_ids[index]
            # Messages without a key have no order.
            if chunk.keys[index] is not None and message_id is not None:
                message_ids[chunk.offsets[index]] = message_id
        others = {each.decode() for each in message_ids.values()} - known.keys()
        if others:
            known = {**known, **await case.find(others)}
        for offset, message_id in message_ids.items():
            message = known.get(message_id.decode())
            if message is None or message.decided or self._is_repeat(message_id, message, offset):
                continue
            # An earlier record of it may lie before what is read, unless the message is younger than that.
            if case.whole or self._began_before(message):
                case.add(Kind.OUT_OF_ORDER, message_id, offset)
            else:
                case.tally.order_unknown += 1

    def _is_repeat(self, message_id: bytes, message: Known, offset: int) -> bool:
        """Is an earlier record of it known, by its receipt or because it was seen?"""
        here = (self._case.topic, self._case.partition)
        first = self._case.scratch.first(message_id, self._case.partition)
        return any(place[:2] == here and place.offset < offset for place in message.places) or (
            first is not None and first < offset
        )

    def _began_before(self, message: Known) -> bool:
        """Is it younger than the first record that was read?"""
        return self._begins_at is not None and message.created_at.timestamp() * 1000 > self._begins_at + _CLOCKS_MS
