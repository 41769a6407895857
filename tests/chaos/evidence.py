"""What is left of a run: PostgreSQL's tables and trail, all records of all topics, offsets as they were seen."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.kafka import topics
from app.kafka.input import Input
from tests.chaos.history import Fault, Try
from tests.chaos.world import ORDERS, World
from tests.judge import Left, Receipt, read
from tests.ledger import Added
from tests.services.kafka import Record

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Moved(NamedTuple):
    """A message that left the outbox, was parked, died, or got its receipt. Moments: seconds since 1970."""

    xid: int
    what: str
    message_id: UUID
    at: float


class Task(NamedTuple):
    task_id: int
    task_type: str
    input: str
    cache_key: bytes | None
    state: str
    result_id: int | None


class Sample(NamedTuple):
    """Committed offsets as the brokers told them at a moment."""

    at: float
    group: str
    offsets: dict[tuple[str, int], int]


@dataclass
class Evidence:
    """All that the judge looks at."""

    tries: list[Try]
    faults: list[Fault]
    added: list[Added]
    added_at: dict[UUID, float]
    committed_at: dict[UUID, float]
    """By the clock of the commits, in the order of which keys are judged."""
    moved: list[Moved]
    receipts: list[Receipt]
    left: Left
    records: dict[str, list[Record]]
    applications: list[tuple[int, str]]
    """Id and description."""
    idempotency_keys: set[str]
    users: list[tuple[int, str]]
    """Id and email."""
    inbox: dict[tuple[str, str], bytes]
    """Fingerprint by consumer and id."""
    remembered_at: dict[tuple[str, str], float]
    """When the transaction was committed that remembered it."""
    tasks: list[Task]
    unknown: Counter[str]
    open_attempts: int
    samples: list[Sample]
    committed: dict[str, dict[tuple[str, int], int]]
    """By group, at the end."""
    billed: dict[str, list[str]]
    groups: Mapping[str, str]
    """The group of each input topic."""
    dead_letter_topics: Mapping[str, str]
    """The topic of dead letters of each input topic."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """Names by role: applications, users, replies, tasks, results, errors, orders."""


async def sample(world: World, samples: list[Sample]) -> None:
    """Look at the committed offsets once a second, until cancelled."""
    while True:
        with suppress(KafkaError, OSError, TimeoutError):
            async with world.kafka.admin() as admin:
                while True:
                    for group in (world.settings.users_group, world.settings.tasks_group):
                        async with asyncio.timeout(5):
                            found = await admin.list_consumer_group_offsets(group)
                        samples.append(Sample(time.time(), group, _plain(found)))
                    await asyncio.sleep(1)
        await asyncio.sleep(0.5)


def _plain(found: Mapping[TopicPartition, object]) -> dict[tuple[str, int], int]:
    offsets = {(tp.topic, tp.partition): int(getattr(value, "offset", -1)) for tp, value in found.items()}
    return {place: offset for place, offset in offsets.items() if offset >= 0}


async def committed(world: World) -> dict[str, dict[tuple[str, int], int]]:
    """The committed offsets of both groups."""
    async with world.kafka.admin() as admin:
        return {
            group: _plain(await admin.list_consumer_group_offsets(group))
            for group in (world.settings.users_group, world.settings.tasks_group)
        }


async def gather(world: World, tries: Sequence[Try], faults: Sequence[Fault], samples: list[Sample]) -> Evidence:
    """Read everything, past all proxies."""
    settings = world.settings
    names = (*topics.ours(settings), ORDERS)
    records = {name: await world.kafka.records(name, at_least=0, timeout=timedelta(seconds=120)) for name in names}
    async with world.database() as database:
        receipts, left = await read(database)
        added_rows = await database.fetch(
            "SELECT id, message_id, topic, key, outbox_headers(headers), payload, type, "
            "extract(epoch FROM at)::float8 AS at, "
            "extract(epoch FROM pg_xact_commit_timestamp(xid::xid))::float8 AS committed_at "
            "FROM chaos.added ORDER BY id"
        )
        return Evidence(
            tries=list(tries),
            faults=list(faults),
            added=[Added(*list(row.values())[:7]) for row in added_rows],
            added_at={row["message_id"]: row["at"] for row in added_rows},
            committed_at={row["message_id"]: row["committed_at"] for row in added_rows},
            moved=[
                Moved(*row)
                for row in await database.fetch(
                    "SELECT xid::text::bigint, what, message_id, extract(epoch FROM at)::float8 FROM chaos.moved"
                )
            ],
            receipts=receipts,
            left=left,
            records=records,
            applications=[tuple(row) for row in await database.fetch("SELECT id, description FROM applications")],
            idempotency_keys={row[0] for row in await database.fetch("SELECT key FROM idempotency_keys")},
            users=[tuple(row) for row in await database.fetch("SELECT id, email FROM users")],
            inbox={
                (row[0], row[1]): row[2]
                for row in await database.fetch("SELECT consumer, message_id, fingerprint FROM inbox_messages")
            },
            remembered_at=await _remembered(database),
            tasks=[
                Task(*row)
                for row in await database.fetch(
                    "SELECT task_id, task_type, input, cache_key, state, result_id FROM integration_tasks"
                )
            ],
            unknown=Counter(
                dict(
                    await database.fetch(
                        "SELECT provider, count(*) FROM integration_attempts WHERE outcome = 'unknown' GROUP BY 1"
                    )
                )
            ),
            open_attempts=await database.fetchval("SELECT count(*) FROM integration_attempts WHERE outcome IS NULL"),
            samples=samples,
            committed=await committed(world),
            billed={
                "dadata": list(world.fakes.dadata.inputs),
                "yandexgpt": list(world.fakes.yandexgpt.inputs),
            },
            groups={
                settings.users_requests_topic: settings.users_group,
                settings.kafka_import_topic: settings.tasks_group,
            },
            dead_letter_topics={
                settings.users_requests_topic: settings.users_dead_letters_topic,
                settings.kafka_import_topic: settings.kafka_import_dead_letters_topic,
            },
            topics={
                "applications": settings.applications_topic,
                "users": settings.users_requests_topic,
                "replies": settings.users_responses_topic,
                "tasks": settings.kafka_import_topic,
                "results": settings.kafka_result_topic,
                "errors": settings.kafka_error_topic,
                "orders": ORDERS,
            },
        )


async def _remembered(database: asyncpg.Connection) -> dict[tuple[str, str], float]:
    rows = await database.fetch(
        "SELECT consumer, message_id, extract(epoch FROM pg_xact_commit_timestamp(xid::xid))::float8 "
        "FROM chaos.remembered"
    )
    return {(row[0], row[1]): row[2] for row in rows}


def to_input(record: Record) -> Input:
    """A record as a consumer has it."""
    return Input(
        record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
    )
