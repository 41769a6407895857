"""What the relay is compared with, in a process of its own: it warms up, waits for the word, and sends.

All have the same producer settings as the relay (acks=all, idempotent, no linger) and send the same bytes.
"""

import asyncio
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer

from app.settings import Settings, load
from bench.messages import TYPE, Sample, now, record_headers, samples
from bench.services import PARTITIONS
from relay.partitioner import partition_of
from relay.records import BATCH_BYTES
from tests.services.postgres_server import dsn

WARM_UP = 5000
_CHUNK = 1000
_TEXTBOOK_LIMIT = 500

_TEXTBOOK_TABLE = """
    CREATE TABLE IF NOT EXISTS bench_textbook (
        id bigserial PRIMARY KEY, message_id uuid NOT NULL, topic text NOT NULL, key bytea, headers bytea[] NOT NULL,
        payload bytea, type text NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        processed_at timestamptz
    );
    CREATE INDEX IF NOT EXISTS bench_textbook_pending ON bench_textbook (id) WHERE processed_at IS NULL;
    TRUNCATE bench_textbook;
"""
_TEXTBOOK_TAKE = """
    SELECT id, message_id, topic, key, headers, payload, created_at FROM bench_textbook
    WHERE processed_at IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_TEXTBOOK_DONE = "UPDATE bench_textbook SET processed_at = clock_timestamp() WHERE id = ANY($1::bigint[])"

Work: TypeAlias = Callable[[], Awaitable[None]]
_Record: TypeAlias = tuple[bytes, bytes, list[tuple[str, bytes]]]


def producer(settings: Settings) -> AIOKafkaProducer:
    """A client as all have it; not started."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        compression_type=None if settings.kafka_compression == "none" else settings.kafka_compression,
    )


def send(client: AIOKafkaProducer, topic: str, messages: Sequence[Sample], _settings: Settings) -> Work:
    """The plain loop: each message gets its headers and a `send()`, a thousand answers are awaited together."""

    async def work() -> None:
        for start in range(0, len(messages), _CHUNK):
            answers = [
                await client.send(
                    topic, each.payload, key=each.key, headers=record_headers(each.message_id, each.headers, now())
                )
                for each in messages[start : start + _CHUNK]
            ]
            await asyncio.gather(*answers)

    return work


def send_batch(client: AIOKafkaProducer, topic: str, messages: Sequence[Sample], _settings: Settings) -> Work:
    """The upper bound: nothing but filling and sending batches, one on its way per partition."""
    parts: defaultdict[int, list[_Record]] = defaultdict(list)
    for record in _records(messages):
        parts[partition_of(record[0], PARTITIONS)].append(record)

    async def work() -> None:
        await asyncio.gather(*(_batches(client, topic, number, part) for number, part in parts.items()))

    return work


async def _batches(client: AIOKafkaProducer, topic: str, partition: int, part: list[_Record]) -> None:
    done = 0
    while done < len(part):
        builder, timestamp = client.create_batch(), time.time_ns() // 1_000_000
        while done < len(part):
            key, value, headers = part[done]
            if builder.append(timestamp=timestamp, key=key, value=value, headers=headers) is None:
                break
            done += 1
        builder.close()
        await (await client.send_batch(builder, topic, partition=partition))


def textbook(client: AIOKafkaProducer, _topic: str, _messages: Sequence[Sample], settings: Settings) -> Work:
    """The usual relay: take rows with SKIP LOCKED, send each, mark them, commit. The rows are in its table."""

    async def work() -> None:
        connection = await connect_textbook(settings)
        while await textbook_round(client, connection):
            pass
        await connection.close()

    return work


async def connect_textbook(settings: Settings) -> asyncpg.Connection:
    """The session of the textbook's relay."""
    return await asyncpg.connect(dsn(settings.database.render_as_string(hide_password=False)))


async def textbook_round(client: AIOKafkaProducer, connection: asyncpg.Connection) -> bool:
    """Take, send, mark, commit. Was there anything?"""
    async with connection.transaction():
        rows = await connection.fetch(_TEXTBOOK_TAKE, _TEXTBOOK_LIMIT)
        answers = [
            await client.send(
                row["topic"],
                row["payload"],
                key=row["key"],
                headers=record_headers(row["message_id"], row["headers"], row["created_at"]),
            )
            for row in rows
        ]
        await asyncio.gather(*answers)
        await connection.execute(_TEXTBOOK_DONE, [row["id"] for row in rows])
    return bool(rows)


async def fill_textbook(connection: asyncpg.Connection, topic: str, messages: Sequence[Sample]) -> None:
    """The textbook's table, with these messages and no others."""
    await connection.execute(_TEXTBOOK_TABLE)
    await connection.copy_records_to_table(
        "bench_textbook",
        columns=["message_id", "topic", "key", "headers", "payload", "type"],
        records=[(each.message_id, topic, each.key, each.headers, each.payload, TYPE) for each in messages],
    )


BASELINES = {"send": send, "send_batch": send_batch, "textbook": textbook}


def _records(messages: Sequence[Sample]) -> list[_Record]:
    created_at = now()
    return [(each.key, each.payload, record_headers(each.message_id, each.headers, created_at)) for each in messages]


async def _run(name: str, topic: str, count: int) -> None:
    settings = load(_env_file=None)
    client = producer(settings)
    await client.start()
    try:
        await BASELINES[name](client, topic, samples(WARM_UP, topic=topic), settings)()
        work = BASELINES[name](client, topic, samples(count, topic=topic), settings)
        gc.collect()
        gc.freeze()  # the prepared messages must not slow down the garbage collection of the work
        print(json.dumps("ready"), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        started = time.monotonic()
        await work()
        print(json.dumps(time.monotonic() - started), flush=True)
    finally:
        await client.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
