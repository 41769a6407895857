"""A relay in a process of its own, with the settings of its environment. It ends when its input is closed.

Told `[topic, count]`, it says so once it has delivered that many more messages of the topic: asking the database again
and again from outside would cost more than the relay itself.
"""

import asyncio
import json
import sys
from collections.abc import Iterator

from app import log, metrics
from app.cli import running
from app.settings import load
from relay.loop import Relay
from relay.publisher import KafkaPublisher

_PROBE = 0.005


async def _run() -> None:
    settings = load(_env_file=None)
    log.configure(settings)
    stop = asyncio.Event()
    relay = asyncio.create_task(Relay(settings, lambda: KafkaPublisher(settings)).run(stop))
    asked: asyncio.Queue[str] = asyncio.Queue()
    reader = asyncio.create_task(asyncio.to_thread(_read, asyncio.get_running_loop(), asked))
    done: dict[str, int] = {}
    while line := await asked.get():
        topic, count = json.loads(line)
        done[topic] = done.get(topic, 0) + count
        while metrics.delivered.labels(topic)._value.get() < done[topic]:  # noqa: ASYNC110 - the relay has no such event
            await asyncio.sleep(_PROBE)
        print(json.dumps("delivered"), flush=True)
    stop.set()
    await relay
    await reader


def _read(loop: asyncio.AbstractEventLoop, asked: "asyncio.Queue[str]") -> None:
    for line in _lines():
        loop.call_soon_threadsafe(asked.put_nowait, line)


def _lines() -> Iterator[str]:
    yield from sys.stdin
    yield ""


if __name__ == "__main__":
    running.run(_run())
