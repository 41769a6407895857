"""What the parts of an audit share."""

from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from app.audit.findings import Findings
from app.audit.scope import Progress, Scope
from app.kafka.log import Log
from app.kafka.walk import Bounds
from app.settings import Settings


@dataclass(slots=True)
class Work:
    """An audit under way. `snapshot` is for transactions that last as long as a topic is read, `current` sees what is
    committed now.
    """

    settings: Settings
    scope: Scope
    findings: Findings
    log: Log
    snapshot: asyncpg.Connection
    current: asyncpg.Connection
    show: Callable[[Progress], None]
    total: int = 0
    done: int = 0

    async def bounds(self, topic: str, partition: int, log: Bounds) -> Bounds:
        """What of a partition's log the scope means."""
        scope, (first, end) = self.scope, log
        if scope.first is not None:
            first = min(max(first, scope.first), end)
        if scope.end is not None:
            end = max(min(end, scope.end), first)
        if scope.since is not None:
            first = await self.log.offset_at(topic, partition, Bounds(first, end), scope.since)
        if scope.until is not None:
            end = await self.log.offset_at(topic, partition, Bounds(first, end), scope.until)
        return Bounds(first, end)

    def advance(self, topic: str, records: int) -> None:
        """So many more offsets are dealt with."""
        self.done += records
        self.show(Progress(self.done, max(self.total, self.done), topic))
