"""A run from its beginning to its report."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx2

from tests.chaos import (
    auditing,
    injecting,
    judge,
    judge_inputs,
    judge_schemas,
    load_http,
    load_kafka,
    load_sql,
    load_tasks,
    quiet,
)
from tests.chaos.evidence import Evidence, Sample, gather, sample
from tests.chaos.history import History
from tests.chaos.judge import Check
from tests.chaos.load_http import Load
from tests.chaos.measures import measure
from tests.chaos.report import Report
from tests.chaos.schedule import Planned
from tests.chaos.world import SETTINGS, World, built
from tests.waiting import until

Say = Callable[[str], None]

HEAL = timedelta(seconds=60)
"""So long after the last fault everything must be as if nothing had been."""
FROZEN = float(str(SETTINGS["relay_idle_timeout"])) + 2
"""Seconds after which PostgreSQL has taken its lanes from a frozen relay."""
_SENDERS: tuple[tuple[Callable[[Load, int], Coroutine[None, None, None]], int], ...] = (
    (load_http.applications, 4),
    (load_kafka.users, 3),
    (load_tasks.tasks, 3),
    (load_sql.orders, 3),
)
CHECKS: tuple[Check, ...] = (
    judge.acknowledged,
    judge.pairs,
    judge.refused,
    judge.resolved,
    judge.nothing_left,
    judge.nothing_invented,
    judge.receipts,
    judge.order,
    partial(judge.repeats, settling=10.0),
    judge_inputs.conserved,
    judge_inputs.once,
    judge_inputs.offsets,
    judge_inputs.reused,
    judge_inputs.dead_letters,
    judge_schemas.schemas,
    judge_inputs.paid,
    partial(judge.freed, killed=2.0, frozen=FROZEN),
)


async def run(
    folder: Path,
    kafka_home: Path,
    planned: Sequence[Planned],
    *,
    seed: int,
    minutes: float,
    brokers: int,
    chosen: Sequence[str],
    say: Say,
) -> Report:
    """Start everything, load it, break it as planned, heal it, judge it."""
    canary = f"canary{seed:x}x"
    say("starting PostgreSQL, Kafka and the service")
    with History(folder / "history.jsonl") as history:
        async with built(folder, kafka_home, brokers) as world:
            for child in world.children.values():
                child.start()
            await _all_ready(world)
            load = Load(world, history, asyncio.Event(), canary, seed)
            samples: list[Sample] = []
            watching = [
                asyncio.create_task(sample(world, samples)),
                asyncio.create_task(injecting.restart(load)),
            ]
            files = await _under_load(load, planned, minutes, say)
            say("healing")
            await injecting.heal(load)
            settled, took = await quiet.settle(world, HEAL)
            say(f"all quiet after {took:.1f} s" if not settled.violations else f"not quiet: {settled.violations}")
            verdicts = [settled, await quiet.system(world, files), await quiet.private(world, canary)]
            for watch in watching:
                watch.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            verdicts.append(await quiet.stopped(world))
            say("judging")
            verdicts += await auditing.audited(world)
            evidence = await gather(world, history.tries, history.faults, samples)
        report = Report(seed, minutes, brokers, list(chosen), _ends(history), history.faults, history.ended_alone)
        report.verdicts = [*(check(evidence) for check in CHECKS), *verdicts]
        report.measured = measure(evidence)
        report.numbers = _numbers(evidence, took)
    return report


async def _all_ready(world: World) -> None:
    async with httpx2.AsyncClient() as client:

        async def ready() -> bool:
            return all([await child.ready(client) for child in world.children.values()])

        await until(ready, timedelta(seconds=120))


async def _under_load(load: Load, planned: Sequence[Planned], minutes: float, say: Say) -> dict[str, int]:
    """Load and faults, until both are over; open files of the warm processes before the first fault."""
    began = time.monotonic()
    senders = [
        asyncio.create_task(send(load, number), name=f"{send.__name__} {number}")
        for send, count in _SENDERS
        for number in range(1, count + 1)
    ]
    await asyncio.sleep(3)
    files = {
        command: max(child.open_files() for child in load.world.of(command)) for command in ("api", "relay", "worker")
    }
    faults = asyncio.create_task(injecting.carry_out(load, planned, minutes, say))
    await asyncio.wait([faults, *senders], return_when=asyncio.FIRST_COMPLETED)
    await faults
    await asyncio.sleep(max(0.0, began + minutes * 60 - time.monotonic()))
    load.stop.set()
    # What is not known yet is still asked for, which may need the services: they are healed meanwhile.
    healing = asyncio.create_task(injecting.heal(load))
    async with asyncio.timeout(HEAL.total_seconds() * 2):
        await asyncio.gather(*senders)
    await healing
    return files


def _ends(history: History) -> dict[str, Counter[str]]:
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in history.tries:
        found[each.kind][each.outcome] += 1
    return dict(found)


def _numbers(evidence: Evidence, took: float) -> dict[str, object]:
    messages = len(evidence.added)
    records = sum(len(found) for topic, found in evidence.records.items() if topic not in evidence.groups)
    return {
        "tasks": dict(Counter(task.state for task in evidence.tasks)),
        "messages added": messages,
        "records published": records,
        "repeats": records - messages,
        "acknowledged writes lost": judge.lost(evidence),
        "quiet after healing, seconds": round(took, 1),
    }
