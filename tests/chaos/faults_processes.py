"""Faults of the service's own processes."""

import asyncio
import random
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta

import asyncpg
import httpx2

from tests.chaos.history import Fault
from tests.chaos.load_http import Load
from tests.chaos.load_sql import burst
from tests.chaos.processes import Child
from tests.chaos.schedule import Planned
from tests.waiting import until

_IN_A_ROUND = """
    SELECT client_port FROM pg_stat_activity
    WHERE application_name = 'outbox-relay' AND state IN ('idle in transaction', 'active') AND xact_start IS NOT NULL
        AND client_port IS NOT NULL
"""
_WRONG_BY = timedelta(minutes=59)
"""From an hour on a broker takes a record for one from the future (INVALID_TIMESTAMP)."""
# The last it was told are its messages: now it sends them, and waits for Kafka.
_PUBLISHING = """
    SELECT client_port FROM pg_stat_activity
    WHERE application_name = 'outbox-relay' AND state = 'idle in transaction' AND query ~ 'WITH (plain|claimed) '
        AND client_port IS NOT NULL
"""
_PATIENCE = 40.0
"""Seconds to catch a relay at what it does for milliseconds."""
_LONGEST_STEP = 0.03
_DATABASE_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def _victim(load: Load, command: str | None, planned: Planned, fault: Fault) -> Child:
    """The chosen process, of any kind or of this one, once it lives: what is broken already cannot be broken."""
    children = load.world.of(command) if command else list(load.world.children.values())
    child = children[int(planned.choice * len(children))]
    fault.victim = child.name
    async with httpx2.AsyncClient() as client:

        async def answers() -> bool:
            with suppress(httpx2.HTTPError, OSError):
                return (await client.get(f"{child.url}/livez", timeout=2)).is_success
            return False

        await until(answers, timedelta(seconds=60))
    return child


async def _catch(load: Load, relay: Child, fault: Fault) -> set[int]:
    """Stop the relay while it publishes; the ports of its sessions that hold lanes then, none if it was not caught:
    PostgreSQL or Kafka was away all the time. It is stopped in any case.
    """
    assert relay.proxy is not None
    end = time.monotonic() + _PATIENCE
    held: set[int] = set()
    while not held and time.monotonic() < end:
        relay.signal(signal.SIGCONT)
        sending = asyncio.create_task(burst(load, relay))
        with suppress(*_DATABASE_ERRORS):
            async with asyncio.timeout(_PATIENCE / 4), load.world.database() as database:
                held = await _stop_at_it(relay, relay.proxy.outgoing, database, sending)
        await asyncio.gather(sending, return_exceptions=True)
    relay.signal(signal.SIGSTOP)
    fault.details["slots_in_a_round"] = len(held)
    fault.hits += bool(held)
    fault.start = time.time()
    return held


async def _stop_at_it(
    relay: Child, ports: set[int], database: asyncpg.Connection, sending: "asyncio.Task[None]"
) -> set[int]:
    """Let the relay go on in steps, until one ends between its fetch and its settle."""

    async def step(seconds: float) -> set[int]:
        relay.signal(signal.SIGCONT)
        await asyncio.sleep(seconds)
        relay.signal(signal.SIGSTOP)
        held: set[int] = set()
        # Twice: what it had said before it was stopped may have been on its way.
        for _ in range(2):
            await asyncio.sleep(0.01)
            held = {row[0] for row in await database.fetch(_PUBLISHING)} & ports
        return held

    while True:
        last = sending.done()
        # Seen first, it has its messages and has not looked at them: the second step lets it send some, or all.
        if await step(0.003) and (held := await step(random.uniform(0, _LONGEST_STEP))):
            return held
        if last:
            return set()


async def _taken_over(load: Load, held: set[int], fault: Fault, limit: float) -> None:
    """Measure how long the lanes stay with who cannot serve them any more; not measured when PostgreSQL goes away."""
    with suppress(*_DATABASE_ERRORS):
        async with asyncio.timeout(limit), load.world.database() as database:

            async def nobody_holds_them() -> bool:
                return not held & {row[0] for row in await database.fetch(_IN_A_ROUND)}

            await until(nobody_holds_them, timedelta(seconds=limit))
            fault.details["taken_over_after"] = round(time.time() - fault.start, 3)


async def kill_relay(load: Load, planned: Planned, fault: Fault) -> None:
    relay = await _victim(load, "relay", planned, fault)
    held = await _catch(load, relay, fault)
    watching = asyncio.create_task(_taken_over(load, held, fault, 20)) if held else None
    await relay.kill()
    await asyncio.sleep(planned.seconds)
    relay.start()
    if watching is not None:
        await watching


async def freeze_relay(load: Load, planned: Planned, fault: Fault) -> None:
    relay = await _victim(load, "relay", planned, fault)
    held = await _catch(load, relay, fault)
    try:
        if held:
            await _taken_over(load, held, fault, planned.seconds)
        await asyncio.sleep(max(0.0, fault.start + planned.seconds - time.time()))
    finally:
        relay.signal(signal.SIGCONT)


async def _kill(load: Load, command: str, planned: Planned, fault: Fault) -> None:
    child = await _victim(load, command, planned, fault)
    fault.start = time.time()
    await child.kill()
    fault.hits += 1
    await asyncio.sleep(planned.seconds)
    child.start()


async def kill_api(load: Load, planned: Planned, fault: Fault) -> None:
    await _kill(load, "api", planned, fault)


async def kill_worker(load: Load, planned: Planned, fault: Fault) -> None:
    await _kill(load, "worker", planned, fault)


async def _freeze(load: Load, command: str, planned: Planned, fault: Fault) -> None:
    child = await _victim(load, command, planned, fault)
    fault.start = time.time()
    child.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(planned.seconds)
        fault.hits += 1
    finally:
        child.signal(signal.SIGCONT)


async def freeze_api(load: Load, planned: Planned, fault: Fault) -> None:
    await _freeze(load, "api", planned, fault)


async def freeze_worker(load: Load, planned: Planned, fault: Fault) -> None:
    await _freeze(load, "worker", planned, fault)


async def stop(load: Load, planned: Planned, fault: Fault) -> None:
    child = await _victim(load, None, planned, fault)
    fault.start = time.time()
    fault.details["ended_in_time"] = await child.stop()
    fault.hits += 1
    await asyncio.sleep(planned.seconds)
    child.start()


async def clock(load: Load, planned: Planned, fault: Fault) -> None:
    """Its clock runs ahead or behind for the rest of the run, and it lives in another time zone."""
    child = await _victim(load, None, planned, fault)
    fault.start = time.time()
    if planned.choice * 1000 % 1 < 0.5:
        child.shift_clock(_WRONG_BY, "Pacific/Kiritimati")
    else:
        child.shift_clock(-_WRONG_BY, "Pacific/Pago_Pago")
    await child.stop()
    child.start()
    fault.hits += 1


async def rebalance(load: Load, planned: Planned, fault: Fault) -> None:
    """A process of its own whose workers come and go; how often they were given partitions is what it hit."""
    third = Child("third-worker", "", load.world.environment, load.world.folder)
    third.arguments = (sys.executable, "-m", "tests.chaos.flapping")

    def joined() -> int:
        return third.log.read_text(encoding="utf-8").count("consumer.assigned") if third.log.exists() else 0

    async def has_joined() -> bool:
        return joined() > before + 1

    before = joined()
    fault.victim = third.name
    third.start()
    try:
        with suppress(AssertionError):  # without brokers nobody joins anything
            await until(has_joined, timedelta(seconds=_PATIENCE))
        await asyncio.sleep(planned.seconds)
    finally:
        await third.stop()
        await third.kill()
    fault.hits = joined() - before
