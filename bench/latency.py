"""How long a message takes from its commit to the topic, under steady traffic that does not wait for the relay.

The broker itself says when it appended a record; a consumer that listens meanwhile would take its share of the machine.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import async_sessionmaker

from app import outbox
from app.db import create_engine
from app.settings import Settings
from bench import outbox as outbox_table
from bench.messages import SOURCE, TYPE, samples
from bench.options import Options
from bench.processes import child
from bench.results import Goal, Measure, Table, percentile
from bench.services import PARTITIONS, Services
from relay.loop import Relay
from relay.publisher import KafkaPublisher

_RATES = (600, 1000)
_WARM_UP = 1.0  # seconds that do not count: connections and prepared statements are made then
_BROKER_WARM_UP = 20  # seconds: until then a broker that was just started compiles what it does
_HALF = 0.0005  # a broker's times are cut to whole milliseconds
_POOL = 10


async def run(services: Services, options: Options) -> list[Table]:
    if not services.kafka.real:
        return [Table("latency", "not measured: the embedded Kafka does not say when it has a record", {}, [])]
    rows: dict[str, dict[str, Measure]] = {}
    await _delays(services, _RATES[-1], _BROKER_WARM_UP, in_process=False)
    for rate in _RATES:
        for place, in_process in (("its own process", False), ("the writer's process", True)):
            written, delays = await _delays(services, rate, options.seconds, in_process=in_process)
            rows[f"{rate}/s, relay in {place}"] = {
                "written/s": Measure((written,)),
                "p50 ms": Measure((percentile(delays, 0.5),)),
                "p90 ms": Measure((percentile(delays, 0.9),)),
                "p99 ms": Measure((percentile(delays, 0.99),)),
                "max ms": Measure((delays[-1],)),
            }
    goals = [
        goal
        for name, row in rows.items()
        for goal in (
            Goal(f"p50, {name}:", row["p50 ms"], ceiling=4),
            Goal(f"p99, {name}:", row["p99 ms"], ceiling=20),
        )
    ]
    return [
        Table(
            "latency",
            f"from COMMIT being sent to the broker's append, a message a transaction, {options.seconds} s",
            rows,
            goals,
            ["In its own process the relay polls; in the writer's a commit wakes it."],
        )
    ]


async def _delays(services: Services, rate: int, seconds: int, *, in_process: bool) -> tuple[float, list[float]]:
    """Messages written a second (fewer than asked for on a machine that is too busy), and the delays, sorted, in ms."""
    topic = await services.kafka.create_topic(partitions=PARTITIONS, message_timestamp_type="LogAppendTime")
    settings = services.settings()
    async with AsyncExitStack() as stack:
        wake = await _start_relay(stack, services, settings, in_process=in_process)
        committed = await _write(settings, topic, rate, seconds, wake)
        records = await services.kafka.records(topic, at_least=len(committed))
    appended: dict[str, float] = {}
    for record in records:
        appended.setdefault(record.key.decode(), record.timestamp / 1000 + _HALF)
    first, last = min(committed.values()), max(committed.values())
    delays = sorted((appended[key] - at) * 1000 for key, at in committed.items() if at >= first + _WARM_UP)
    return len(committed) / (last - first), delays


async def _start_relay(
    stack: AsyncExitStack, services: Services, settings: Settings, *, in_process: bool
) -> Callable[[], None]:
    """Start one; what to call after a commit."""
    wake: Callable[[], None] = lambda: None  # noqa: E731 - a default that does nothing
    if in_process:
        relay, stop = Relay(settings, lambda: KafkaPublisher(settings)), asyncio.Event()
        task = asyncio.create_task(relay.run(stop))
        stack.push_async_callback(partial(asyncio.wait_for, task, timeout=30))
        stack.callback(stop.set)
        wake = relay.wake
    else:
        await stack.enter_async_context(child("bench.relay_process", services.environment()))
    async with services.database() as connection:
        await outbox_table.connected(connection, settings.relay_slots)
    return wake


async def _write(settings: Settings, topic: str, rate: int, seconds: int, wake: Callable[[], None]) -> dict[str, float]:
    """Add messages at this rate whatever becomes of them; by key, when each COMMIT was sent.

    Not when it was answered: a busy writer hears that late, and its message may be in the topic by then.
    """
    count = int(rate * (seconds + _WARM_UP))
    payloads = [each.payload for each in samples(count, topic=topic)]
    engine = create_engine(settings, role="bench", pool_size=_POOL, deadline=timedelta(seconds=60))
    sessions = async_sessionmaker(engine)
    committed: dict[str, float] = {}

    async def add(key: str, payload: bytes) -> None:
        async with sessions() as session:
            await outbox.add(session, outbox.event(topic=topic, key=key, type=TYPE, source=SOURCE, data=payload))
            committed[key] = time.time()
            await session.commit()
        wake()

    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, payload in enumerate(payloads):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.create_task(add(f"key-{number}", payload))
    await engine.dispose()
    return committed
