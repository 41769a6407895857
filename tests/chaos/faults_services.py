"""Faults of PostgreSQL, of Kafka, and of the ways to them."""

import asyncio
import random
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import asyncpg

from app.errors import EmbeddedServiceError
from tests.chaos.history import Fault
from tests.chaos.load_http import Load
from tests.chaos.schedule import Planned
from tests.chaos.world import World
from tests.services.proxy import TcpProxy

_TERMINATE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND application_name LIKE 'outbox-%' AND random() < 0.3
"""
_STORM = timedelta(milliseconds=50)
_BLOCK = 1 << 20
_READY = timedelta(seconds=90)


async def terminate(load: Load, planned: Planned, fault: Fault) -> None:
    async with load.world.database() as database:
        while time.time() < fault.start + planned.seconds:
            fault.hits += await database.fetchval(_TERMINATE)
            await asyncio.sleep(_STORM.total_seconds())


async def crash_postgres(load: Load, planned: Planned, fault: Fault) -> None:
    await load.world.postgres.crash()
    fault.hits += 1
    await asyncio.sleep(planned.seconds)
    await load.world.postgres.start()


async def disk_full(load: Load, planned: Planned, fault: Fault) -> None:
    """Fill the disk; PostgreSQL may even end when it cannot write its log, and is then started again."""
    disk = load.world.disk
    if disk is None:
        fault.skipped = "PostgreSQL's own file system needs root and mount"
        return
    ballast = disk / "ballast"
    try:
        end = fault.start + planned.seconds
        while time.time() < end:
            await asyncio.to_thread(_fill, ballast)  # again: what a checkpoint gives back is taken, too
            if not load.world.postgres.running or not await _can_write(load.world):
                fault.hits += 1
            await asyncio.sleep(0.2)
    finally:
        ballast.unlink(missing_ok=True)
        if not load.world.postgres.running:
            fault.details["ended"] = True
        await up(load.world)


def _fill(ballast: Path) -> None:
    block = bytes(_BLOCK)
    size = len(block)
    with ballast.open("ab", buffering=0) as file:
        while size >= 4096:
            try:
                file.write(block[:size])
            except OSError:
                size //= 2


async def _can_write(world: World) -> bool:
    """Is there room for a new page?"""
    try:
        async with world.database() as database:
            await database.execute("CREATE TABLE IF NOT EXISTS chaos.room (filler text)")
            await database.execute(
                "INSERT INTO chaos.room SELECT repeat(md5(n::text), 60) FROM generate_series(1, 50) n"
            )
            await database.execute("TRUNCATE chaos.room")
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


async def up(world: World) -> None:
    """PostgreSQL runs and takes connections."""
    deadline = time.monotonic() + _READY.total_seconds()
    while True:
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, EmbeddedServiceError):
            if not world.postgres.running:
                await world.postgres.start()
            async with world.database() as database:
                await database.fetchval("SELECT 1")
                return
        if time.monotonic() > deadline:
            raise AssertionError("PostgreSQL did not come back")
        await asyncio.sleep(0.1)


def _broker(load: Load, planned: Planned, fault: Fault) -> int:
    broker = 1 + int(planned.choice * load.world.kafka.count)
    fault.victim = f"broker-{broker}"
    return broker


async def kill_broker(load: Load, planned: Planned, fault: Fault) -> None:
    broker = _broker(load, planned, fault)
    await load.world.kafka.brokers.kill(broker)
    fault.hits += 1
    await asyncio.sleep(planned.seconds)
    await load.world.kafka.brokers.start_broker(broker)
    await load.world.kafka.wait_until_ready(load.world.kafka.count, _READY)


async def freeze_broker(load: Load, planned: Planned, fault: Fault) -> None:
    broker = _broker(load, planned, fault)
    await load.world.kafka.brokers.pause(broker)
    try:
        await asyncio.sleep(planned.seconds)
        fault.hits += 1
    finally:
        await load.world.kafka.brokers.resume(broker)
    await load.world.kafka.wait_until_ready(load.world.kafka.count, _READY)


async def roll_brokers(load: Load, planned: Planned, fault: Fault) -> None:
    kafka = load.world.kafka
    for broker in range(1, kafka.count + 1):
        await kafka.brokers.stop_broker(broker)
        await kafka.brokers.start_broker(broker)
        await kafka.wait_until_ready(kafka.count, _READY)
        fault.hits += 1


async def _cut(ways: list[TcpProxy], planned: Planned, fault: Fault) -> None:
    fault.hits += sum(len(way.outgoing) for way in ways)
    for way in ways:
        await way.cut()
    try:
        await asyncio.sleep(planned.seconds)
    finally:
        for way in ways:
            await way.restore()


async def _slow(ways: list[TcpProxy], planned: Planned, fault: Fault) -> None:
    delay = timedelta(milliseconds=random.Random(planned.choice).choice((20, 50, 120)))
    fault.details["delay"] = delay.total_seconds()
    fault.hits += sum(len(way.outgoing) for way in ways)
    for way in ways:
        way.delay = delay
    try:
        await asyncio.sleep(planned.seconds)
    finally:
        for way in ways:
            way.delay = timedelta(0)


async def cut_postgres(load: Load, planned: Planned, fault: Fault) -> None:
    await _cut(load.world.ways_to_postgres, planned, fault)


async def slow_postgres(load: Load, planned: Planned, fault: Fault) -> None:
    await _slow(load.world.ways_to_postgres, planned, fault)


def _brokers(load: Load, planned: Planned, fault: Fault) -> list[TcpProxy]:
    """One of them, or all."""
    ways = list(load.world.ways_to_kafka.values())
    if planned.choice < 0.5:
        fault.victim = "all brokers"
        return ways
    number = int((planned.choice - 0.5) * 2 * len(ways))
    fault.victim = f"broker-{number + 1}"
    return [ways[number]]


async def cut_kafka(load: Load, planned: Planned, fault: Fault) -> None:
    await _cut(_brokers(load, planned, fault), planned, fault)


async def slow_kafka(load: Load, planned: Planned, fault: Fault) -> None:
    await _slow(_brokers(load, planned, fault), planned, fault)
