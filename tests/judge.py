"""Says, at the end of a test, whether the outbox kept its promise, by what Kafka and PostgreSQL hold then.

A test keeps what it adds (`tests.ledger`), lets the relay work, and calls `judge`, or `verify`, which first waits and
reads.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg
from xxhash import xxh3_64_intdigest

from tests.ledger import Added
from tests.services.kafka import Kafka, Record
from tests.services.postgres_server import dsn
from tests.waiting import until

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class Receipt(NamedTuple):
    message_id: UUID
    topic: str
    partition: int
    offset: int
    fingerprint: int


class Left(NamedTuple):
    """What PostgreSQL still holds: messages owed, in lanes and parked, and dead letters with their reasons."""

    owed: frozenset[UUID]
    dead: dict[UUID, str]


async def read(connection: asyncpg.Connection) -> tuple[list[Receipt], Left]:
    """Receipts and what is left, in one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        receipts = await connection.fetch(
            'SELECT message_id, topic, partition, "offset", fingerprint FROM outbox_receipts'
        )
        owed = await connection.fetch(
            "SELECT message_id FROM outbox_messages UNION ALL SELECT message_id FROM outbox_parked"
        )
        dead = await connection.fetch("SELECT message_id, reason FROM outbox_dead_letters WHERE state <> 'retried'")
    left = Left(frozenset(row[0] for row in owed), {row[0]: row[1] for row in dead})
    assert len(left.owed) == len(owed), "a message lies in two places"
    return [Receipt(*row) for row in receipts], left


async def verify(
    kafka: Kafka,
    database_url: str,
    messages: Sequence[Added],
    *,
    repeats: int = 0,
    dead: Collection[UUID] = (),
    free: Collection[UUID] = (),
    timeout: timedelta = timedelta(seconds=60),
) -> list[Record]:
    """Wait until nothing is owed, read everything, and judge; the records of all topics of these messages."""
    connection = await asyncpg.connect(dsn(database_url), timeout=30)
    try:

        async def nothing_is_owed() -> bool:
            return not (await read(connection))[1].owed

        await until(nothing_is_owed, timeout)
        receipts, left = await read(connection)
    finally:
        await connection.close(timeout=5)
    sent = Counter(message.topic for message in messages if message.message_id not in dead)
    records = [r for topic, number in sent.items() for r in await kafka.records(topic, at_least=number)]
    judge(messages, records, receipts, left, repeats=repeats, dead=dead, free=free)
    return records


def judge(
    messages: Iterable[Added],
    records: Sequence[Record],
    receipts: Sequence[Receipt],
    left: Left,
    *,
    repeats: int = 0,
    dead: Collection[UUID] = (),
    free: Collection[UUID] = (),
) -> None:
    """Nothing lost, nothing invented, in order per (topic, key), with true receipts.

    `records`: all of the topics, by partition and offset. `repeats`: how many records more than messages there may be.
    `dead`: exactly these are dead letters. `free`: these may come out of the order of their key (`continue`, resumed).
    """
    by_id = {message.message_id: message for message in messages}
    first: dict[UUID, Record] = {}
    places: dict[tuple[str, int, int], Record] = {}
    for record in records:
        message_id = _judge_record(record, by_id)
        first.setdefault(message_id, record)
        places[record.topic, record.partition, record.offset] = record
    assert set(left.dead) == set(dead), f"dead letters: {left.dead}, expected: {set(dead)}"
    confirmed = Counter(receipt.message_id for receipt in receipts)
    for message in by_id.values():
        ends = (confirmed[message.message_id], message.message_id in left.owed, message.message_id in left.dead)
        assert sum(ends) == 1, f"{message} has (receipts, owed, dead letter) = {ends}; one of them must be 1"
        if confirmed[message.message_id]:
            assert message.message_id in first, f"{message} has a receipt, but is lost"
    for receipt in receipts:
        there = places.get((receipt.topic, receipt.partition, receipt.offset))
        assert there is not None, f"{receipt} names no record"
        assert _header(there, "ce_id") == str(receipt.message_id), f"{receipt} names the record of {there.headers}"
        assert _fingerprint(there) == receipt.fingerprint % 2**64, f"{receipt} has another fingerprint"
    _judge_order(by_id, first, free)
    more = len(records) - len(first)
    assert more <= repeats, f"{more} repeats, at most {repeats} were in flight"


def _judge_record(record: Record, by_id: dict[UUID, Added]) -> UUID:
    message_id = UUID(_header(record, "ce_id"))
    message = by_id.get(message_id)
    where = f"{record.topic}/{record.partition}@{record.offset}"
    assert message is not None, f"{where}: {message_id} was invented"
    assert (record.topic, record.key, record.value) == (message.topic, message.key, message.payload), (
        f"{where}: changed"
    )
    flat = iter(message.headers)
    own = [(name.decode(), value) for name, value in zip(flat, flat, strict=True)]
    assert list(record.headers)[4:] == own, f"{where}: headers are {record.headers}, not {own}"
    assert _header(record, "ce_type") == message.type, f"{where}: type changed"
    assert _RFC_3339.fullmatch(_header(record, "ce_time")), f"{where}: {record.headers} has no proper ce_time"
    return message_id


def _header(record: Record, name: str) -> str:
    (value,) = [str(value, "utf-8") for header, value in record.headers if header == name]
    return value


def _fingerprint(record: Record) -> int:
    """As the receipt should have it, unsigned: XXH3 of the payload, seeded with that of the key."""
    seed = 1 if record.key is None else xxh3_64_intdigest(record.key)
    return seed ^ 1 if record.value is None else xxh3_64_intdigest(record.value, seed)


def _judge_order(by_id: dict[UUID, Added], first: dict[UUID, Record], free: Collection[UUID]) -> None:
    """One partition per key, and first occurrences there in the order of ids."""
    last: defaultdict[tuple[str, bytes], tuple[int, int | None]] = defaultdict(lambda: (0, None))
    for message_id, record in first.items():
        if record.key is None or message_id in free:
            continue
        (last_id, partition), this = last[record.topic, record.key], by_id[message_id].id
        assert partition in {None, record.partition}, f"{record.key!r} of {record.topic} is in two partitions"
        assert last_id < this, f"{record.key!r} of {record.topic}: {this} came after {last_id}"
        last[record.topic, record.key] = this, record.partition
