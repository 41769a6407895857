"""A runner of tasks in a process of its own, with the settings of its environment. It ends when its input is closed.

Told `connections`, it says how many connections were checked out, on average, while all slots had calls under way.
"""

import asyncio
import json
import sys

import uvloop
from sqlalchemy import QueuePool

from app import log
from app.db import create_engine
from app.settings import load
from app.tasks.outcomes import Outcome, Provider, Question
from app.tasks.providers import connect_all
from app.tasks.runner import Runner

_SAMPLE = 0.005


class _Counted:
    """A provider with the number of calls under way."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.under_way = 0

    async def ask(self, question: Question) -> Outcome:
        self.under_way += 1
        try:
            return await self._provider.ask(question)
        finally:
            self.under_way -= 1


async def _run() -> None:
    settings = load(_env_file=None)
    log.configure(settings)
    engine = create_engine(
        settings, role="tasks", pool_size=settings.task_pool_size, deadline=settings.task_database_deadline
    )
    stop = asyncio.Event()
    samples: list[int] = []
    async with connect_all(settings) as providers:
        dadata = _Counted(providers["dadata"])
        running = asyncio.create_task(Runner(settings, engine, {**providers, "dadata": dadata}).run(stop))

        async def sample() -> None:
            pool = engine.pool
            assert isinstance(pool, QueuePool)
            while not stop.is_set():
                if dadata.under_way == settings.dadata_slots:
                    samples.append(pool.checkedout())
                await asyncio.sleep(_SAMPLE)

        sampling = asyncio.create_task(sample())
        print(json.dumps("ready"), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(sum(samples) / max(1, len(samples))), flush=True)
        stop.set()
        await asyncio.gather(running, sampling)
    await engine.dispose()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run())
