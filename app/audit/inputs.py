"""The audit of what a consumer reads: each input below its committed offsets is in the inbox, each dead letter true."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from app.audit.findings import Where
from app.audit.report import IntakeCounts, Kind
from app.audit.scope import Intake
from app.audit.work import Work
from app.kafka import groups
from app.kafka.dead_letter import PREFIX
from app.kafka.input import Input, coordinates, fingerprint

_MOST = 10_000
"""Dead letters of a consumer that are compared with their inputs, each of which is fetched alone."""

# Positions of inputs that the inbox does not know: neither under their ids with this very content, nor under their
# places, as those are whose ids were used before.
_NOT_IN_INBOX = """
    SELECT i.position - 1
    FROM unnest($2::text[], $3::bytea[], $4::text[]) WITH ORDINALITY AS i (id, fingerprint, reused, position)
    WHERE NOT EXISTS (
        SELECT FROM inbox_messages AS m
        WHERE m.consumer = $1 AND m.message_id = i.id AND m.fingerprint = i.fingerprint
    ) AND NOT EXISTS (SELECT FROM inbox_messages AS m WHERE m.consumer = $1 AND m.message_id = i.reused)
    ORDER BY 1
"""


async def audit_intake(work: Work, intake: Intake) -> IntakeCounts:
    """Check one consumer; what is found goes to the findings of `work`."""
    checked = too_old = 0
    partitions = await work.log.partitions(intake.topic)
    committed = await groups.committed(work.settings, intake.consumer, intake.topic, partitions)
    # As the worker forgets, so that what is being forgotten now is not missed.
    oldest = (time.time() - work.settings.inbox_retention.total_seconds()) * 1000
    for partition, offset in committed.items():
        log = await work.log.bounds(intake.topic, partition)
        if offset > log.end:
            detail = "the consumer has committed an offset behind the end of the log"
            work.findings.add(Kind.GAP, None, Where(intake.topic, partition, offset), detail)
        bounds = await work.bounds(intake.topic, partition, log._replace(end=max(log.first, min(offset, log.end))))
        async for chunk in work.log.read(intake.topic, partition, bounds, committed=True):
            inputs = [_input(intake.topic, partition, record) for record in chunk.records if record.timestamp >= oldest]
            too_old += len(chunk.records) - len(inputs)
            checked += len(inputs)
            for index in await _unknown(work.current, intake, inputs):
                work.findings.add(Kind.GAP, None, Where(intake.topic, partition, inputs[index].offset))
            work.advance(intake.topic, chunk.end - chunk.first)
    await _dead_letters(work, intake)
    return IntakeCounts(consumer=intake.consumer, topic=intake.topic, checked=checked, too_old=too_old)


async def _unknown(connection: asyncpg.Connection, intake: Intake, inputs: Sequence[Input]) -> list[int]:
    """Which of the inputs the inbox does not know."""
    if not inputs:
        return []
    rows = await connection.fetch(
        _NOT_IN_INBOX,
        intake.consumer,
        [intake.identify(each) for each in inputs],
        [fingerprint(each) for each in inputs],
        [f"reused:{coordinates(each)}" for each in inputs],
    )
    return [row[0] for row in rows]


def _input(topic: str, partition: int, record: Any) -> Input:
    return Input(topic, partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers))


async def _dead_letters(work: Work, intake: Intake) -> None:
    """Compare the consumer's dead letters with the inputs that they were, as long as Kafka has both."""
    left = _MOST
    for partition in await work.log.partitions(intake.dead_letters):
        bounds = await work.bounds(
            intake.dead_letters, partition, await work.log.bounds(intake.dead_letters, partition)
        )
        async for chunk in work.log.read(intake.dead_letters, partition, bounds, committed=False):
            for record in chunk.records[:left]:
                headers = dict(record.headers)
                if headers.get(f"{PREFIX}consumer") == intake.consumer.encode():
                    left -= 1
                    await _dead_letter(work, intake, partition, record, headers)


async def _dead_letter(
    work: Work, intake: Intake, partition: int, record: Any, headers: Mapping[str, bytes | None]
) -> None:
    place = Where(intake.dead_letters, partition, record.offset)
    try:
        source = int(headers[f"{PREFIX}partition"] or b""), int(headers[f"{PREFIX}offset"] or b"")
        timestamp = int(headers[f"{PREFIX}timestamp"] or b"")
    except (KeyError, ValueError):
        detail = "it does not say where the input was"
        work.findings.add(Kind.UNFAITHFUL_DEAD_LETTER, None, place, detail)
        return
    original = await work.log.record(intake.topic, *source)
    # Made anew, a topic has other records at the same offsets.
    if original is None or original.timestamp != timestamp:
        return
    if not _is_faithful(record, original, headers):
        detail = f"the input is at {intake.topic} {source[0]}:{source[1]}"
        work.findings.add(Kind.UNFAITHFUL_DEAD_LETTER, None, place, detail)


def _is_faithful(record: Any, original: Any, headers: Mapping[str, bytes | None]) -> bool:
    """Has it the input's key and value, or what it says it has of them?"""
    digest = headers.get(f"{PREFIX}value-sha256")
    if digest is None:
        return bool(record.key == original.key and record.value == original.value)
    return (
        digest == hashlib.sha256(original.value or b"").hexdigest().encode()
        and (original.value or b"").startswith(record.value or b"")
        and (original.key or b"").startswith(record.key or b"")
    )
