"""The textbook's relay in a process of its own, looking for work as often as ours. It ends when its input is closed."""

import asyncio
import json
import sys

from app.cli import running
from app.settings import load
from bench.baselines import connect_textbook, producer, textbook_round


async def _run() -> None:
    settings = load(_env_file=None)
    client = producer(settings)
    await client.start()
    connection = await connect_textbook(settings)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    print(json.dumps("ready"), flush=True)
    idle = settings.relay_poll_min
    while not ended.done():
        if await textbook_round(client, connection):
            idle = settings.relay_poll_min
        else:
            await asyncio.sleep(idle.total_seconds())
            idle = min(idle * 2, settings.relay_poll_max)
    await connection.close()
    await client.stop()


if __name__ == "__main__":
    running.run(_run())
