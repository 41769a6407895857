"""Topics pause, close and open, messages are refused, retried and discarded, relays lose their sessions: at random."""

import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from tests.engine import Broker, assess, connect, engine
from tests.ledger import Added, Ledger
from tests.operating import discard, pause, resume, retry
from tests.waiting import until

_SECONDS = 6
_TOPICS = ("t", "u")
_DEAD = "SELECT message_id FROM outbox_dead_letters WHERE state = 'dead'"
_LEFT = f"SELECT EXISTS (TABLE outbox_messages) OR EXISTS (TABLE outbox_parked) OR EXISTS ({_DEAD})"
_SHUT = "SELECT topic FROM outbox_topics WHERE paused_at IS NOT NULL OR closed_at IS NOT NULL OR refused_in_a_row > 0"
_END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'outbox-relay' AND random() < 0.3
"""
# Small cuts, so that lists of a lane are cut everywhere, and short pauses of the breaker.
_SETTINGS = {
    "relay_light_messages": 3,
    "relay_batch_messages": 7,
    "relay_batch_bytes": 640,
    "relay_probe_min": 0.02,
    "relay_probe_max": 0.1,
    "relay_floor_step": 1,
    "relay_floor_interval": 0.001,
    "refusals_to_close": 4,
}


class Chaos:
    def __init__(self, database_url: str, broker: Broker, connection: asyncpg.Connection, seed: int) -> None:
        self._url = database_url
        self._broker = broker
        self._connection = connection
        self._chance = random.Random(seed)
        self.ledger = Ledger(connection)
        self.discarded: set[UUID] = set()
        self.ended = 0

    async def act(self) -> None:
        chance, topic = self._chance, self._chance.choice(_TOPICS)
        match chance.randrange(14):
            case 0:
                await pause(self._url, topic)
            case 1 | 2:
                await self._resume(topic)
            case 3:
                self._broker.unavailable ^= {topic}
            case 4:
                self._broker.poison = {b"bad %d" % number for number in range(3) if chance.random() < 0.5}
            case 5 | 6:
                await self._decide(chance.choice((retry, retry, discard)))
            case 7 if chance.random() < 0.2:
                self.ended += await self._connection.fetchval(_END_SESSIONS)
            case _:
                await self._add(topic)

    async def come_to_rest(self) -> None:
        """Everything is well again; all that is undecided is retried."""
        self._broker.poison = set()
        self._broker.unavailable = set()
        for topic in _TOPICS:
            await self._resume(topic)

        async def nothing_is_left() -> bool:
            await self._decide(retry)  # a round that was under way may still bury something
            return not await self._connection.fetchval(_LEFT)

        await until(nothing_is_left, timedelta(seconds=60))

    async def _add(self, topic: str) -> None:
        chance = self._chance
        payloads = (b"x" * 20, b"x" * 300, None, b"bad %d" % chance.randrange(3))
        keys = (b"a", b"b", b"c", b"d", None)
        number = chance.choice((1, 1, 2, 10))
        pairs = [(chance.choice(keys), chance.choices(payloads, (6, 1, 1, 1))[0]) for _ in range(number)]
        await self.ledger.add(topic, pairs)

    async def _resume(self, topic: str) -> None:
        if topic in {row[0] for row in await self._connection.fetch(_SHUT)}:
            await resume(self._url, topic)

    async def _decide(self, act: Callable[[str, Added], Awaitable[None]]) -> None:
        dead = {row[0] for row in await self._connection.fetch(_DEAD)}
        letters = [message for message in self.ledger.messages if message.message_id in dead]
        if letters:
            letter = self._chance.choice(letters)
            await act(self._url, letter)
            if act is discard:
                self.discarded.add(letter.message_id)


@pytest.mark.parametrize("seed", range(2))
async def test_order_is_kept_and_nothing_is_lost(database_url: str, seed: int) -> None:
    broker = Broker(partitions=2)
    async with connect(database_url) as connection:
        chaos = Chaos(database_url, broker, connection, seed)
        async with engine(database_url, broker, **_SETTINGS):
            end = time.monotonic() + _SECONDS
            while time.monotonic() < end:
                await chaos.act()
            await chaos.come_to_rest()
    assert len(chaos.ledger.messages) > 100
    # A round takes up to 7 messages of each list of a lane, or 3 of each list of all lanes; there are few lists.
    await assess(database_url, broker, chaos.ledger.messages, dead=chaos.discarded, repeats=chaos.ended * 100)
