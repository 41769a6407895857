"""The audit of one topic: its receipts and its records, side by side."""

import asyncio
from datetime import timedelta
from functools import partial

from app.audit import known
from app.audit.case import Case
from app.audit.comparison import Comparison
from app.audit.findings import Where
from app.audit.receipts import WHOLE, Receipts, receipts
from app.audit.report import Kind, TopicCounts
from app.audit.scratch import Scratch
from app.audit.work import Work
from app.kafka.skim import Skimmed
from app.kafka.walk import Bounds

_AT_ONCE = 5000
"""Rows of one look-up."""
_SECOND_LOOK = timedelta(seconds=2)
"""A standby that is asked in place of the primary may be this far behind."""
_CLOCKS = timedelta(hours=1)
"""So much may a record's own timestamp differ from its receipt's."""


async def audit_topic(work: Work, topic: str, *, compacted: bool) -> TopicCounts:
    """Compare a topic's records with its receipts; what is found goes to the findings of `work`."""
    tally = TopicCounts(topic=topic)
    partitions = await work.log.partitions(topic)
    with Scratch() as scratch:
        async with work.snapshot.transaction(isolation="repeatable_read", readonly=True):
            await known.take_snapshot(work.snapshot)
            # Only now the ends: what has a receipt in the snapshot is in the log.
            logs = {number: await work.log.bounds(topic, number) for number in partitions}
            chosen = {number: await work.bounds(topic, number, log) for number, log in logs.items()}
            wanted = {number: _receipted(work, logs[number], chosen[number]) for number in partitions}
            async with receipts(work.snapshot, topic, wanted) as stream:
                comparison: Comparison | None = None
                async for chunk in work.log.skim(topic, chosen):
                    number, bounds = chunk.partition, chosen[chunk.partition]
                    if comparison is None or chunk.first == bounds.first:
                        comparison = Comparison(
                            Case(
                                topic=topic,
                                partition=number,
                                findings=work.findings,
                                tally=tally,
                                scratch=scratch,
                                find=partial(known.find, work.current),
                                compacted=compacted,
                                whole=bounds.first == 0,
                            )
                        )
                        tally.no_longer_there += await stream.skip(number, bounds.first)
                    await _compare(comparison, chunk, stream)
                    if chunk.end == bounds.end:
                        await _behind_the_end(work, stream, topic, number, wanted[number].end)
                    work.advance(topic, chunk.end - chunk.first)
                    await asyncio.sleep(0)
                tally.receipts = stream.taken
        await _look_again(work, topic, scratch, tally)
    return tally


def _receipted(work: Work, log: Bounds, chosen: Bounds) -> Bounds:
    """The offsets whose receipts are wanted: where the scope sets no bound, also those that the log does not have."""
    first, end = WHOLE
    if work.scope.since is not None:
        first = chosen.first
    elif work.scope.first is not None:
        first = work.scope.first
    if work.scope.end is not None:
        end = work.scope.end
    if work.scope.until is not None and chosen.end < log.end:
        end = chosen.end
    return Bounds(first, end)


async def _compare(comparison: Comparison, chunk: Skimmed, stream: Receipts) -> None:
    if chunk.offsets:
        await comparison.compare(chunk, await stream.until(chunk.partition, chunk.end))
    else:
        # Any number of offsets, so any number of receipts.
        while rows := await stream.until(chunk.partition, chunk.end, most=_AT_ONCE):
            await comparison.compare(chunk, rows)


async def _behind_the_end(work: Work, stream: Receipts, topic: str, partition: int, end: int) -> None:
    """Receipts that name places which the log has not reached, or not any more."""
    while rows := await stream.until(partition, end, most=_AT_ONCE):
        for offset, message_id, *_ in rows:
            work.findings.add(Kind.LOST, message_id, Where(topic, partition, offset), "the log ends before")


async def _look_again(work: Work, topic: str, scratch: Scratch, tally: TopicCounts) -> None:
    """Records that nobody knew: older than receipts are kept, or known by now, or invented."""
    oldest = await known.moment_ago(work.current, work.settings.receipts_retention - _CLOCKS)
    tally.beyond_receipts, left = scratch.forget_unknown(round(oldest.timestamp() * 1000))
    if left:
        await asyncio.sleep(_SECOND_LOOK.total_seconds())
    for unknown in scratch.unknown(_AT_ONCE):
        found = await known.find(work.current, {each.message_id for each in unknown})
        for message_id, partition, offset, _ in unknown:
            if message_id not in found:
                work.findings.add(Kind.INVENTED, message_id, Where(topic, partition, offset))
