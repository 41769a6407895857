"""Is all quiet again, by itself? What must be so within a minute after the last fault."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import httpx2
from aiokafka.errors import KafkaError

from tests.chaos.evidence import committed
from tests.chaos.judge import Verdict
from tests.chaos.world import World

_OWED = """
    SELECT (SELECT count(*) FROM outbox_messages) AS messages, (SELECT count(*) FROM outbox_parked) AS parked,
        (SELECT count(*) FROM integration_tasks WHERE state IN ('pending', 'running')) AS tasks
"""
_OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""
_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'outbox-%'"
_FREE_LANES = "SELECT count(*) FROM (SELECT FROM outbox_lanes FOR UPDATE SKIP LOCKED) AS free"


async def settle(world: World, patience: timedelta) -> tuple[Verdict, float]:
    """Wait until nothing is under way; what still is after `patience`, and how long it took (seconds)."""
    verdict = Verdict("I17", "all heals by itself: nothing owed, nothing unread, every process ready")
    began = time.monotonic()
    async with httpx2.AsyncClient() as client:
        while True:
            missing = await _missing(world, client)
            took = time.monotonic() - began
            if not missing or took > patience.total_seconds():
                break
            await asyncio.sleep(0.2)
    verdict.checked = len(world.children) + 3
    verdict.violations += [f"after {took:.0f} s: {each}" for each in missing]
    return verdict, took


async def _missing(world: World, client: httpx2.AsyncClient) -> list[str]:
    missing = []
    try:
        async with world.database() as database:
            row = await database.fetchrow(_OWED)
            missing += [f"{count} {name}" for name, count in row.items() if count]
        if not missing:
            missing += await _unread(world)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError) as error:
        missing.append(f"no answer ({type(error).__name__})")
    if not missing:
        missing += [f"{child.name} is not ready" for child in world.children.values() if not await child.ready(client)]
    return missing


async def _unread(world: World) -> list[str]:
    done = await committed(world)
    found = []
    for group, topic in (
        (world.settings.users_group, world.settings.users_requests_topic),
        (world.settings.tasks_group, world.settings.kafka_import_topic),
    ):
        records = await world.kafka.records(topic, at_least=0)
        ends: dict[int, int] = {}
        for record in records:
            ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
        lag = sum(end - done[group].get((topic, partition), 0) for partition, end in ends.items())
        if lag:
            found.append(f"{lag} records of {topic} unread")
    return found


async def system(world: World, files_before: dict[str, int]) -> Verdict:
    """What nobody uses, nobody holds."""
    verdict = Verdict(
        "I16", "a quiet system: no open transactions, locks or lanes, no more sessions or files than pools"
    )
    pools = 2 * world.settings.api_pool_size + 2 * (world.settings.relay_slots + 3) + 2 * (4 + 5)
    async with world.database() as database:

        async def none(sql: str, what: str, wrong: Callable[[int], bool]) -> None:
            # Polling is short, and may be seen: what stays is wrong.
            count = 0
            for _ in range(50):
                count = await database.fetchval(sql)
                if not wrong(count):
                    break
                await asyncio.sleep(0.1)
            verdict.check(not wrong(count), f"{count} {what}")

        await none(_OPEN, "open transactions", lambda count: count > 0)
        await none(_LOCKS, "advisory locks", lambda count: count > 0)
        await none(_FREE_LANES, "free lanes of 32", lambda count: count < 32)
        await none(_SESSIONS, f"sessions, pools have {pools}", lambda count: count > pools)
    for child in world.children.values():
        before, now = files_before.get(child.command, 0), child.open_files()
        verdict.check(now <= before * 1.1 + 8, f"{child.name} has {now} open files, a warm {child.command} {before}")
    return verdict


async def private(world: World, canary: str) -> Verdict:
    """Personal data is in no log and no metric."""
    verdict = Verdict("I20", "no personal data in logs, metrics and readiness")
    texts = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in world.folder.glob("*.log")}
    async with httpx2.AsyncClient() as client:
        for child in world.children.values():
            for path in ("/metrics", "/readyz"):
                texts[f"{child.name}{path}"] = (await client.get(child.url + path, timeout=10)).text
    for name, text in texts.items():
        verdict.check(canary not in text, f"{name} holds personal data")
    return verdict


async def stopped(world: World) -> Verdict:
    """SIGTERM ends every process in time."""
    verdict = Verdict("STOP", "told to stop, every process ends in time")
    ends = await asyncio.gather(*(child.stop() for child in world.children.values()))
    for child, ended in zip(world.children.values(), ends, strict=True):
        verdict.check(ended, f"{child.name} did not end")
    return verdict
