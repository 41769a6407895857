"""How fast a backlog reaches the topic, against what one would write without the relay, and against the usual one."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from bench import outbox, processes
from bench.baselines import BASELINES, WARM_UP, fill_textbook
from bench.messages import Sample, samples
from bench.options import Options
from bench.processes import child
from bench.results import MEGABYTE, Goal, Measure, Table, ratios
from bench.services import PARTITIONS, Services

_RELAY, _BARE = "relay", "relay, no receipts"


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's turn: messages per second, CPU microseconds per message of each side, and the client's memory."""

    rate: float
    client: float
    postgres: float
    kafka: float
    memory: float
    """The most megabytes that it ever had resident."""


Contender: TypeAlias = Callable[[Services, str, int], Awaitable[Run]]


async def run(services: Services, options: Options) -> list[Table]:
    return [await _table(services, options, compression) for compression in ("zstd", "none")]


async def _table(services: Services, options: Options, compression: str) -> Table:
    contenders: dict[str, Contender] = {
        _RELAY: partial(_relay, kafka_compression=compression, receipts=True),
        _BARE: partial(_relay, kafka_compression=compression, receipts=False),
        **{name: partial(_baseline, name=name, compression=compression) for name in BASELINES},
    }
    topic = await services.kafka.create_topic(f"drain-{compression}", partitions=PARTITIONS)
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for turn in range(options.rounds + 1):
        for name, contender in contenders.items():
            before = await services.records(topic)
            run = await contender(services, topic, options.messages)
            arrived = await services.records(topic) - before - WARM_UP
            if arrived != options.messages:
                raise RuntimeError(f"{name}: {arrived} records arrived, {options.messages} were owed")
            if turn > 0:  # a broker compiles its code while it runs, and whoever comes first would pay for that
                runs[name].append(run)
    ours = [each.rate for each in runs[_RELAY]]
    against = {name: ratios(ours, [each.rate for each in runs[name]]) for name in runs}
    return Table(
        f"drain ({compression})",
        f"{options.messages:,} messages of 300 bytes, 1,000 keys, {PARTITIONS} partitions: all confirmed and settled",
        rows={name: _row(each, against[name]) for name, each in runs.items()},
        goals=[
            Goal("relay / send()", against["send"], floor=1.2),
            Goal("relay / textbook relay", against["textbook"], floor=3.5),
        ],
    )


def _row(runs: list[Run], ratio: Measure) -> dict[str, Measure]:
    row = {"messages/s": Measure(tuple(each.rate for each in runs)), "relay is × as fast": ratio}
    for side, values in (
        ("client", [each.client for each in runs]),
        ("PostgreSQL", [each.postgres for each in runs]),
        ("Kafka", [each.kafka for each in runs]),
    ):
        if any(values):
            row[f"{side} µs"] = Measure(tuple(values))
    return row


class _Meter:
    """CPU of the three sides, from its making on."""

    def __init__(self, services: Services, pid: int) -> None:
        self._services, self._pid = services, pid
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        if not processes.can_measure():
            return 0.0, 0.0, 0.0
        return processes.cpu_seconds([self._pid]), self._services.postgres_cpu(), self._services.kafka_cpu()

    def run(self, seconds: float, messages: int) -> Run:
        client, postgres, kafka = (
            (now - before) / messages * 1e6 for now, before in zip(self._now(), self._before, strict=True)
        )
        memory = processes.peak_memory(self._pid) / MEGABYTE if processes.can_measure() else 0.0
        return Run(messages / seconds, client, postgres, kafka, memory)


async def _relay(services: Services, topic: str, count: int, **settings: object) -> Run:
    return await relay(services, topic, samples(count, topic=topic), **settings)


async def relay(services: Services, topic: str, messages: Sequence[Sample], **settings: object) -> Run:
    """A relay with these settings delivers a backlog of these messages."""
    environment = services.environment(**settings)
    async with services.database() as connection:
        await outbox.clear(connection)
        async with child("bench.relay_process", environment) as process:
            await outbox.connected(connection, services.settings().relay_slots)
            await outbox.fill(connection, topic, samples(WARM_UP, topic=topic))
            process.say([topic, WARM_UP])
            await process.hear()
            with process.stopped():  # or its first looks would walk over what is not committed yet
                await outbox.fill(connection, topic, messages)
                process.say([topic, len(messages)])
                meter = _Meter(services, process.pid)
                started = time.monotonic()
            await process.hear()
            run = meter.run(time.monotonic() - started, len(messages))
        await outbox.check_empty(connection)
    return run


async def _baseline(services: Services, topic: str, count: int, *, name: str, compression: str) -> Run:
    async with services.database() as connection:
        if name == "textbook":
            await fill_textbook(connection, topic, samples(WARM_UP, topic=topic))
        environment = services.environment(kafka_compression=compression)
        async with child("bench.baselines", environment, name, topic, str(count)) as baseline:
            await baseline.hear()
            if name == "textbook":
                await fill_textbook(connection, topic, samples(count, topic=topic))
            meter = _Meter(services, baseline.pid)
            baseline.say("go")
            return meter.run(await baseline.hear(), count)
