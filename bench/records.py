"""What it costs to make a batch of Kafka's records of what a slot has fetched (docs/decisions)."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence, Sized
from datetime import UTC, datetime

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.messages import TYPE, Sample, record_headers, samples
from bench.options import Options
from bench.results import Measure, Table
from bench.services import Services
from relay.outcomes import OwedMessage
from relay.records import pack

_BATCH = 333
"""Messages of a full round for one of six partitions."""
_CODECS = {"none": 0, "zstd": 4}
_NOW = 1_700_000_000_000
_WRITTEN = datetime.fromtimestamp(_NOW / 1000, UTC)


async def run(_services: Services, options: Options) -> list[Table]:
    messages = samples(_BATCH * 30, topic="records")
    parts = [messages[start : start + _BATCH] for start in range(0, len(messages), _BATCH)]
    return [_table(parts, options, compression) for compression in _CODECS]


def _table(parts: Sequence[Sequence[Sample]], options: Options, compression: str) -> Table:
    listed, ready = ([[_owed(each, way) for each in part] for part in parts] for way in (False, True))

    def by_aiokafka(number: int) -> Sized:
        builder = DefaultRecordBatchBuilder(2, _CODECS[compression], 0, 1, 0, 0, 1 << 30)
        for position, (sample, owed) in enumerate(zip(parts[number], listed[number], strict=True)):
            headers = record_headers(sample.message_id, owed.headers, _WRITTEN)
            builder.append(position, _NOW, owed.key, owed.payload, headers)
        built: bytearray = builder.build()
        return built

    def by_us(number: int, messages: Sequence[Sequence[OwedMessage]]) -> Sized:
        batch, _ = pack(messages[number], 0, _BATCH, timestamp=_NOW, compression=compression, size=1 << 30)
        return batch.encode(1, 0, 0)

    ways: dict[str, Callable[[int], Sized]] = {
        "aiokafka's builder": by_aiokafka,
        "ours, headers as a list": lambda number: by_us(number, listed),
        "ours, headers stored ready": lambda number: by_us(number, ready),
    }
    cost: defaultdict[str, list[float]] = defaultdict(list)
    bytes_sent: dict[str, float] = {}
    for _ in range(options.rounds * 3):
        for way, build in ways.items():
            started = time.process_time()
            sent = sum(len(build(number)) for number in range(len(parts)))
            cost[way].append((time.process_time() - started) / (len(parts) * _BATCH) * 1e6)
            bytes_sent[way] = sent / (len(parts) * _BATCH)
    rows = {
        way: {"CPU µs a message": Measure(tuple(cost[way])), "bytes a message": Measure((bytes_sent[way],))}
        for way in ways
    }
    return Table(f"records ({compression})", f"Batches of {_BATCH} records with 300 bytes and seven headers", rows)


def _owed(sample: Sample, ready: bool) -> OwedMessage:
    headers = sample.stored_headers if ready else sample.headers
    return OwedMessage(0, 0, str(sample.message_id), "records", sample.key, headers, sample.payload, TYPE, _NOW * 1000)
