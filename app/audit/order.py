"""The largest id so far of each key of a partition: what comes first in a topic must rise above it.

For one key, id order is commit order (design §3), so a record whose id is not above the last one of its key is either
a repeat or out of order. Keys are 64 bits of their hash.
"""

from collections.abc import Iterable

from app.audit.scratch import Scratch

_MOST = 500_000
"""Keys in memory: about 60 MB. More than these are put on disk, and looked up there when they come again."""


class KeyOrder:
    """The keys of one partition. `last` is read and written directly: a call for each record would cost too much."""

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
