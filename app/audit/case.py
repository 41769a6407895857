"""What the comparison of one partition works with."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from app.audit.findings import Findings, Where
from app.audit.known import Known
from app.audit.report import Kind, TopicCounts
from app.audit.scratch import Scratch

Find: TypeAlias = Callable[[Collection[str]], Awaitable[dict[str, Known]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One partition of a topic. `compacted`: records may go missing in the middle of the log.

    `whole`: nothing ever lay before what is read, so what comes first here is a message's first record. `find` asks
    PostgreSQL for messages by their ids. `tally` and `scratch` are the topic's.
    """

    topic: str
    partition: int
    findings: Findings
    tally: TopicCounts
    scratch: Scratch
    find: Find
    compacted: bool
    whole: bool

    def add(self, kind: Kind, message_id: bytes, offset: int, detail: str = "") -> None:
        """A finding at this offset."""
        self.findings.add(kind, message_id, Where(self.topic, self.partition, offset), detail)
