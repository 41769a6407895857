"""A network that fails at the worst moment: at a COMMIT."""

import asyncio
from typing import Literal

from tests.services.proxy import TcpProxy

_COMMIT = b"COMMIT;\0"  # as asyncpg sends it, in a simple query
_CHUNK = 65_536

When = Literal["before", "after"]


class CommitCut(TcpProxy):
    """Resets the connection of the next COMMIT, once `arm` was called: `before` PostgreSQL hears of it, or `after` it
    has answered, with the answer lost.
    """

    _armed: When | None = None
    cuts = 0

    def arm(self, when: When) -> None:
        self._armed = when

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target_reader: asyncio.StreamReader,
        target_writer: asyncio.StreamWriter,
    ) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        lose_the_answer = False

        async def requests() -> None:
            nonlocal lose_the_answer
            while data := await reader.read(_CHUNK):
                if self._armed is not None and _COMMIT in data:
                    when, self._armed = self._armed, None
                    self.cuts += 1
                    if when == "before":
                        connection.cancel()
                        return
                    lose_the_answer = True
                target_writer.write(data)
                await target_writer.drain()

        async def answers() -> None:
            while data := await target_reader.read(_CHUNK):
                if lose_the_answer:
                    connection.cancel()
                    return
                writer.write(data)
                await writer.drain()

        pumps = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
