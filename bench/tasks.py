"""Integration tasks: how long a thousand of them take at a provider that answers after 50 ms, in four slots."""

import asyncio
import time

from bench.options import Options
from bench.processes import child
from bench.results import Goal, Measure, Table
from bench.services import Services

_TASKS, _SLOTS, _DELAY = 1000, 4, 0.05
_IDEAL = _TASKS / _SLOTS * _DELAY
_PATIENCE = 120.0
_POLL = 0.02

_ADD = """
    INSERT INTO integration_tasks (task_id, task_type, provider, input, fingerprint, cache_key, origin)
    SELECT n, 'phone', 'dadata', '8916' || lpad(n::text, 7, '0'), sha256(n::text::bytea), sha256(n::text::bytea), 'rest'
    FROM generate_series($1::bigint, $2::bigint) AS n
"""

_LEFT = "SELECT count(*) FROM integration_tasks WHERE state <> 'done'"


async def run(services: Services, options: Options) -> list[Table]:
    """Rounds of tasks, each owed before the clock starts."""
    seconds: list[float] = []
    connections = 0.0
    environment = services.environment(dadata_rate=0, dadata_slots=_SLOTS, task_poll_max=0.05)
    async with services.database() as connection, child("bench.fakes_process", services.environment()) as fakes:
        url = (await fakes.hear())["url"]
        async with child("bench.tasks_process", {**environment, "FAKES_URL": url}) as worker:
            await worker.hear()
            for number in range(options.rounds):
                first = number * _TASKS
                started = time.perf_counter()
                await connection.execute(_ADD, first + 1, first + _TASKS)
                async with asyncio.timeout(_PATIENCE):
                    while await connection.fetchval(_LEFT):  # noqa: ASYNC110 - the runner has no such event
                        await asyncio.sleep(_POLL)
                seconds.append(time.perf_counter() - started)
            worker.say("connections")
            connections = await worker.hear()
    spent = Measure(tuple(seconds), " s")
    return [
        Table(
            "tasks",
            f"{_TASKS} phones, {_SLOTS} slots, an answer after {_DELAY * 1000:g} ms; ideal {_IDEAL:g} s",
            {"until the last result": {"seconds": spent}},
            [
                Goal(
                    "share of the ideal time", Measure(tuple(value / _IDEAL for value in seconds), " ×"), ceiling=1.15
                ),
                # Each call that held one would count here: four.
                Goal("connections in use while four calls are under way", Measure((connections,)), ceiling=1),
            ],
        )
    ]
