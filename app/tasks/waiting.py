"""Waiting for tasks to end, as requests do: one question to the database for all who wait in this process."""

import asyncio
from collections import defaultdict
from datetime import timedelta

from app import lifecycle, log
from app.api.dependencies import Database
from app.errors import Unavailable
from app.tasks import service
from app.tasks.service import Accepted

logger = log.get(__name__)

_INTERVAL = timedelta(milliseconds=25)


class Waiting:
    """Those who wait. While there are none, nothing is asked; nobody holds a connection."""

    def __init__(self) -> None:
        self._waiting: defaultdict[int, list[asyncio.Future[Accepted]]] = defaultdict(list)
        self._asking: asyncio.Task[None] | None = None

    async def until_ended(self, database: Database, task_id: int, limit: timedelta) -> Accepted | None:
        """The task once it is done, has failed or is held; None if it is none of that within `limit`."""
        future: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._waiting[task_id].append(future)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(database))
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return await future
        except TimeoutError:
            return None
        finally:
            if future in self._waiting[task_id]:
                self._waiting[task_id].remove(future)
            if not self._waiting[task_id]:
                del self._waiting[task_id]

    async def _ask(self, database: Database) -> None:
        while self._waiting:
            task_ids = list(self._waiting)
            try:
                ended = await database.read(lambda session: service.ended(session, task_ids))  # noqa: B023 - awaited here
            except Unavailable as error:
                logger.warning("tasks.waiting", reason=str(error))
                ended = []
            for task in ended:
                for future in self._waiting.get(task.task_id, ()):
                    if not future.done():
                        future.set_result(task)
            await asyncio.sleep(lifecycle.jittered(_INTERVAL).total_seconds())
