"""The fakes of the providers in a process of their own. It ends when its input is closed."""

import asyncio
import json
import socket
import sys

import uvloop

from app.fakes import Fakes, serve


async def _run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve(Fakes(), listener):
            print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run())
