"""Carries out a plan, and heals what it broke."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from tests.chaos import faults_processes, faults_services
from tests.chaos.history import Fault
from tests.chaos.load_http import Load
from tests.chaos.schedule import Planned

_WATCH = timedelta(seconds=0.5)
_PAUSE = timedelta(seconds=1)
"""Between two faults of a track at least."""

Injector = Callable[[Load, Planned, Fault], Awaitable[None]]

INJECTORS: dict[str, Injector] = {
    "kill-relay": faults_processes.kill_relay,
    "kill-api": faults_processes.kill_api,
    "kill-worker": faults_processes.kill_worker,
    "freeze-relay": faults_processes.freeze_relay,
    "freeze-api": faults_processes.freeze_api,
    "freeze-worker": faults_processes.freeze_worker,
    "stop": faults_processes.stop,
    "clock": faults_processes.clock,
    "rebalance": faults_processes.rebalance,
    "terminate": faults_services.terminate,
    "crash-postgres": faults_services.crash_postgres,
    "disk-full": faults_services.disk_full,
    "kill-broker": faults_services.kill_broker,
    "freeze-broker": faults_services.freeze_broker,
    "roll-brokers": faults_services.roll_brokers,
    "cut-postgres": faults_services.cut_postgres,
    "slow-postgres": faults_services.slow_postgres,
    "cut-kafka": faults_services.cut_kafka,
    "slow-kafka": faults_services.slow_kafka,
}


async def carry_out(load: Load, planned: Sequence[Planned], minutes: float, say: Callable[[str], None]) -> None:
    """Do all faults, each track in its order; one that takes longer than planned moves the rest of its track, and what
    is then too late for the run is left out.
    """
    begun = time.monotonic()

    async def run(track: str) -> None:
        late = 0.0
        mine = [each for each in planned if each.track == track]
        for each, following in zip(mine, [*mine[1:], None], strict=True):
            if not each.first and each.at + late > minutes * 60:
                return
            await asyncio.sleep(max(0.0, begun + each.at + late - time.monotonic()))
            with load.history.fault(each.kind, each.at) as fault:
                try:
                    await INJECTORS[each.kind](load, each, fault)
                except (OSError, TimeoutError, AssertionError) as error:
                    # A fault that cannot be done because of another one hits nothing; the counters will tell.
                    fault.details["failed"] = f"{type(error).__name__}: {error}"
            now = time.monotonic() - begun
            say(f"{now:6.1f} s  {each.kind:<15} {fault.victim:<12} hits {fault.hits}")
            if following is not None:
                late = max(late, now + _PAUSE.total_seconds() - following.at)

    async with asyncio.TaskGroup() as group:
        for track in dict.fromkeys(each.track for each in planned):
            group.create_task(run(track))


async def restart(load: Load) -> None:
    """Start again what ended without a fault, as whoever runs the service would, and record it. Ends when cancelled."""
    while True:
        for child in load.world.children.values():
            if child.wanted and not child.running:
                load.history.ended(child.name)
                child.start()
        await asyncio.sleep(_WATCH.total_seconds())


async def heal(load: Load) -> None:
    """Lift whatever may still be there; done when PostgreSQL and all brokers answer."""
    world = load.world
    for child in world.children.values():
        child.signal(signal.SIGCONT)
    for way in (*world.ways_to_postgres, *world.ways_to_kafka.values()):
        way.delay = timedelta(0)
    for broker in range(1, world.kafka.count + 1):
        await world.kafka.brokers.resume(broker)
    await faults_services.up(world)
    await world.kafka.wait_until_ready(world.kafka.count, timedelta(seconds=90))
    for child in world.children.values():
        if not child.running:
            child.start()
