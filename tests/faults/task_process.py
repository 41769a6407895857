"""A process with the tasks' part of the service. Without a topic to import from (`main([])`) only the runner runs."""

import asyncio
import sys
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import async_sessionmaker

from app import lifecycle, log
from app.db import create_engine
from app.kafka.batch import Batches
from app.kafka.consumer import Consumer
from app.settings import load
from app.tasks.consumer import TasksHandler
from app.tasks.providers import connect_all
from app.tasks.runner import Runner


def main(topics: Sequence[str]) -> None:
    """Run until told to stop; settings come from the environment."""
    asyncio.run(_main(topics))


async def _main(topics: Sequence[str]) -> None:
    settings = load(_env_file=None)
    log.configure(settings)
    with lifecycle.stop_on_signals() as stop:
        sys.stderr.write("tasks.ready\n")
        engine = create_engine(settings, role="tasks", pool_size=4, deadline=settings.task_database_deadline)
        async with connect_all(settings) as providers, asyncio.TaskGroup() as group:
            group.create_task(Runner(settings, engine, providers).run(stop))
            if topics:
                batches = Batches(
                    settings,
                    TasksHandler(settings),
                    name=settings.tasks_group,
                    dead_letters=settings.kafka_import_dead_letters_topic,
                    sessions=async_sessionmaker(engine),
                )
                consumer = Consumer(settings, batches, topics=topics)
                group.create_task(lifecycle.supervise("consumer", lambda: consumer.run(stop), stop))
        await engine.dispose()
