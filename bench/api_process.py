"""The API in a process of its own, with the settings of its environment. It ends when its input is closed."""

import asyncio
import json
import sys

import uvloop

from app import log
from app.main import create_app, serve
from app.settings import load


async def _run() -> None:
    settings = load(_env_file=None)
    log.configure(settings)
    stop = asyncio.Event()
    reader = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    reader.add_done_callback(lambda _: stop.set())
    await serve(settings, create_app(settings), stop, ready=lambda url: print(json.dumps(url), flush=True))
    await reader


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run())
