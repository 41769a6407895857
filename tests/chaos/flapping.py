"""A worker that joins its groups and leaves them again every 2 s, until it is told to stop."""

import asyncio
from datetime import timedelta

from app import lifecycle, log
from app.settings import load
from app.worker import Worker

_STAY, _AWAY = timedelta(seconds=2), timedelta(seconds=2)


async def main() -> None:
    settings = load(_env_file=None)
    log.configure(settings)
    with lifecycle.stop_on_signals() as stop:
        while not stop.is_set():
            leave = asyncio.Event()
            working = asyncio.create_task(Worker(settings).run(leave))
            await lifecycle.wait(stop, _STAY)
            leave.set()
            await asyncio.wait({working})
            if not working.cancelled() and (error := working.exception()) is not None:
                log.get("chaos").warning("worker.failed", reason=type(error).__name__)
            await lifecycle.wait(stop, _AWAY)


if __name__ == "__main__":
    asyncio.run(main())
