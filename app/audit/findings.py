"""What has been found so far: how many of each kind, and the first few."""

from collections import Counter, defaultdict
from typing import NamedTuple

from app.audit.report import Example, Finding, Kind


class Where(NamedTuple):
    """A place in Kafka."""

    topic: str
    partition: int
    offset: int


class Findings:
    """Collects findings; keeps `examples` of each kind."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self._counts: Counter[Kind] = Counter()
        self._kept: defaultdict[Kind, list[Example]] = defaultdict(list)

    def add(self, kind: Kind, message_id: bytes | str | None, where: Where, detail: str = "") -> None:
        """One more."""
        if len(self._kept[kind]) < self.examples:
            name = message_id.decode("ascii") if isinstance(message_id, bytes) else message_id
            self._kept[kind].append(Example(name, *where, detail))
        self._counts[kind] += 1

    def add_all(self, kind: Kind, count: int, some: list[Example]) -> None:
        """Some more, of which only a few are shown."""
        self._counts[kind] += count
        self._kept[kind] += some[: self.examples - len(self._kept[kind])]

    def as_findings(self, max_repeats: int | None) -> tuple[Finding, ...]:
        """All of them, by kind. Repeats are a violation only when there are more than `max_repeats`."""
        return tuple(
            Finding(kind, self._counts[kind], _breaks(kind, self._counts[kind], max_repeats), tuple(self._kept[kind]))
            for kind in Kind
            if self._counts[kind]
        )


def _breaks(kind: Kind, count: int, max_repeats: int | None) -> bool:
    return kind is not Kind.REPEATED or (max_repeats is not None and count > max_repeats)
