"""The audit as a whole: what it reads, in which order, and what it makes of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from app import db
from app.audit import known
from app.audit.findings import Findings
from app.audit.inputs import audit_intake
from app.audit.report import Kind, Report
from app.audit.scope import Intake, Progress, Scope
from app.audit.topic import audit_topic
from app.audit.work import Work
from app.errors import ConfigurationError, NotFound, SchemaError
from app.kafka.log import Log
from app.kafka.retention import compacted
from app.settings import Settings

_ROLE = "verify"
_STATEMENT = timedelta(minutes=10)
"""Counting tens of millions of receipts takes a while; nobody waits for longer."""
_READING = timedelta(days=1)
"""PostgreSQL waits while a topic is read."""
_UNDEFINED = {"42P01", "42703"}  # table, column


def _ignore(_progress: Progress) -> None:
    """Nobody wants to know."""


async def audit(
    settings: Settings,
    scope: Scope | None = None,
    *,
    intakes: Sequence[Intake] = (),
    examples: int = 10,
    max_repeats: int | None = None,
    progress: Callable[[Progress], None] = _ignore,
) -> Report:
    """Compare what PostgreSQL holds with what stands in the topics, and change nothing.

    `intakes` are consumers whose inputs are checked against the inbox; when the scope names topics, only those that it
    names. `examples`: how many of each kind are kept. `max_repeats`: more repeats than this are a violation; None
    allows any number.
    Raises DatabaseUnavailable, BrokerUnavailable, SchemaError, NotFound for a chosen topic that nobody knows, and
    ConfigurationError when no receipts are kept.
    """
    if not settings.receipts:
        raise ConfigurationError("RECEIPTS: without receipts there is nothing to compare the topics with")
    started_at, begun = datetime.now(UTC), time.monotonic()
    scope = scope or Scope()
    findings = Findings(examples)
    async with _sessions(settings) as (snapshot, current, aside), Log(settings) as log:
        work = Work(settings, scope, findings, log, snapshot, current, progress)
        taken = [each for each in intakes if not scope.topics or each.topic in scope.topics]
        topics = await _topics(work, {each.topic for each in taken})
        compact = await compacted(settings, topics)
        work.total = await _size(work, [*topics, *(each.topic for each in taken)])
        comparing = asyncio.create_task(_contradictions(work, aside, topics))
        try:
            counts = [await audit_topic(work, topic, compacted=topic in compact) for topic in topics]
            consumed = [await audit_intake(work, each) for each in taken]
            await comparing
        finally:
            comparing.cancel()
            await asyncio.wait({comparing})
        standing = await known.standing(current, examples)
    return Report(
        started_at=started_at,
        seconds=time.monotonic() - begun,
        topics=tuple(counts),
        intakes=tuple(consumed),
        standing=standing,
        findings=findings.as_findings(max_repeats),
    )


async def _topics(work: Work, consumed: set[str]) -> list[str]:
    """What PostgreSQL sends to, and what was asked for besides, unless it is only consumed. Raises NotFound."""
    sent_to = await known.topics(work.current, work.scope.topics)
    others = [topic for topic in work.scope.topics if topic not in sent_to and topic not in consumed]
    for topic in others:
        if not await work.log.partitions(topic):
            raise NotFound(f"neither PostgreSQL nor Kafka knows a topic {topic}")
    return [*sent_to, *others]


async def _contradictions(work: Work, session: asyncpg.Connection, topics: Sequence[str]) -> None:
    """What needs no records: PostgreSQL looks for it while the topics are read."""
    findings = work.findings
    for topic in topics:
        found = await known.elsewhere(session, topic, await work.log.partitions(topic), findings.examples)
        findings.add_all(Kind.LOST, *found)
    for found in await known.false_receipts(session, work.scope.topics, findings.examples):
        findings.add_all(Kind.FALSE_RECEIPT, *found)


async def _size(work: Work, topics: Sequence[str]) -> int:
    """About how many records there are to be read."""
    total = 0
    for topic in topics:
        for partition in await work.log.partitions(topic):
            first, end = await work.bounds(topic, partition, await work.log.bounds(topic, partition))
            total += end - first
    return total


@asynccontextmanager
async def _sessions(settings: Settings) -> AsyncIterator[list[asyncpg.Connection]]:
    """Sessions that cannot write: one for long snapshots, one for what is current, one for what takes its time."""
    extra = {"default_transaction_read_only": "on"}
    opening = [
        asyncio.create_task(db.connect(settings, role=_ROLE, statement=statement, idle=_READING, extra=extra))
        for statement in (_READING, _STATEMENT, _STATEMENT)
    ]
    try:
        yield [await each for each in opening]
    except db.DRIVER_ERRORS as error:
        if db.sqlstate(error) in _UNDEFINED:
            raise SchemaError("the outbox is not in this database, or an older one: run `outbox migrate`") from error
        if db.is_transient(error):
            raise db.unavailable(error) from error
        raise
    finally:
        for each in opening:
            each.cancel()
        for session in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(session, asyncpg.Connection):
                # Whatever it is still doing, nobody waits for it.
                session.terminate()
