"""What it costs to hand a small round to Kafka: through aiokafka's producer, and as the relay does it (0016)."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from typing import TypeAlias

from aiokafka import AIOKafkaProducer

from app.settings import Settings
from bench.baselines import producer
from bench.messages import TYPE, samples
from bench.options import Options
from bench.results import Found, Table
from bench.services import PARTITIONS, Services
from relay.outcomes import OwedMessage
from relay.partitioner import partition_of
from relay.publisher import KafkaPublisher
from relay.records import BATCH_BYTES, RecordBatch, pack

_ROUNDS = 500
_WARM_UP = 15  # turns: until then a broker that was just started compiles what it does
_MESSAGES, _USED = 4, 3  # as many partitions get a message in a round of light traffic
_DEADLINE = timedelta(seconds=20)

Publish: TypeAlias = Callable[[Sequence[OwedMessage]], Awaitable[object]]


async def run(services: Services, options: Options) -> list[Table]:
    settings = services.settings()
    topic = await services.kafka.create_topic(partitions=PARTITIONS)
    messages = _messages(topic)
    ways = {"aiokafka's producer": _by_aiokafka, "requests made by the relay": _by_the_relay}
    found = Found()
    for turn in range(_WARM_UP + options.rounds * 3):
        for name, way in ways.items():
            async with way(settings) as publish:
                await publish(messages)
                started, worked, broker = time.monotonic(), time.process_time(), services.kafka_cpu()
                for _ in range(_ROUNDS):
                    await publish(messages)
                if turn >= _WARM_UP:
                    found[name]["µs"].append((time.monotonic() - started) / _ROUNDS * 1e6)
                    found[name]["client µs"].append((time.process_time() - worked) / _ROUNDS * 1e6)
                    found[name]["Kafka µs"].append((services.kafka_cpu() - broker) / _ROUNDS * 1e6)
    rows = found.rows()
    title = f"A publish of {_MESSAGES} messages in {_USED} partitions"
    return [Table("decisions: publishing", title, rows)]


class _Batch:
    """What is packed already, for aiokafka's `send_batch`, which wants a builder."""

    def __init__(self, batch: RecordBatch) -> None:
        self._batch = batch
        self._producer = (-1, -1, -1)

    def record_count(self) -> int:
        return self._batch.count

    def closed(self) -> bool:
        return True

    def close(self) -> None:
        """It is."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = producer_id, producer_epoch, base_sequence

    def _build(self) -> bytearray:
        return self._batch.encode(*self._producer)


@asynccontextmanager
async def _by_aiokafka(settings: Settings) -> AsyncIterator[Publish]:
    client = producer(settings)
    await client.start()
    try:
        yield lambda messages: _send_batches(client, settings.kafka_compression, messages)
    finally:
        await client.stop()


async def _send_batches(client: AIOKafkaProducer, compression: str, messages: Sequence[OwedMessage]) -> None:
    parts: defaultdict[int, list[OwedMessage]] = defaultdict(list)
    for message in messages:
        parts[partition_of(message.key or b"", PARTITIONS)].append(message)
    answers = []
    for partition, part in parts.items():
        now = time.time_ns() // 1_000_000
        batch, _ = pack(part, 0, len(part), timestamp=now, compression=compression, size=BATCH_BYTES)
        answers.append(await client.send_batch(_Batch(batch), part[0].topic, partition=partition))
    for answer in answers:
        await answer


@asynccontextmanager
async def _by_the_relay(settings: Settings) -> AsyncIterator[Publish]:
    publisher = KafkaPublisher(settings)
    await publisher.open()
    try:
        yield lambda messages: publisher.publish(messages, singly=(), deadline=_DEADLINE)
    finally:
        await publisher.close()


def _messages(topic: str) -> list[OwedMessage]:
    keys = (b"key %d" % number for number in count())
    by_partition: dict[int, bytes] = {}
    while len(by_partition) < _USED:
        key = next(keys)
        by_partition.setdefault(partition_of(key, PARTITIONS), key)
    used = [*by_partition.values()]
    now = time.time_ns() // 1000
    return [
        OwedMessage(
            0, number, str(each.message_id), topic, used[number % _USED], each.stored_headers, each.payload, TYPE, now
        )
        for number, each in enumerate(samples(_MESSAGES, topic=topic))
    ]
