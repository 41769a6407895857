"""Under steady light traffic one slot goes from round to round without a look; others take over when it is slow."""

import asyncio
import random
from collections.abc import Collection, Sequence
from datetime import timedelta

import asyncpg
import pytest

from relay import store
from relay.floor import Lane
from relay.outcomes import Outcome, OwedMessage, Publisher
from relay.traffic import PATIENCE
from tests.engine import Broker, assess, connect, empty, settings
from tests.relaying import running
from tests.waiting import until
from tests.writers import write

_SESSIONS = """
    SELECT pid, state LIKE 'idle in transaction%' AS held FROM pg_stat_activity
    WHERE application_name = 'outbox-relay' AND datname = current_database() ORDER BY pid
"""


class _Uneven:
    """A publisher that sometimes takes longer than its slot may keep the duty."""

    def __init__(self, publisher: Publisher, chance: random.Random) -> None:
        self._publisher, self._chance = publisher, chance
        self.open, self.close = publisher.open, publisher.close

    async def publish(
        self, messages: Sequence[OwedMessage], *, singly: Collection[str], deadline: timedelta
    ) -> list[Outcome]:
        await asyncio.sleep(self._chance.expovariate(2 / PATIENCE.total_seconds()))
        return await self._publisher.publish(messages, singly=singly, deadline=deadline)


async def test_rounds_that_follow_each_other_deliver_what_single_ones_do(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, chance, found = Broker(), random.Random(1), list[int]()
    using, claim_owed = settings(database_url, relay_poll_max=2), store.claim_owed  # rounds end for want of messages

    async def counted(connection: asyncpg.Connection) -> list[Lane]:
        lanes = await claim_owed(connection)
        found.append(len(lanes))
        return lanes

    monkeypatch.setattr(store, "claim_owed", counted)
    async with (
        connect(database_url) as connection,
        running(using, lambda: _Uneven(broker.publisher(), chance)),
    ):

        async def sessions() -> list[int]:
            return [row["pid"] for row in await connection.fetch(_SESSIONS) if not row["held"]]

        async def all_at_rest() -> bool:
            return len(await sessions()) == using.relay_slots

        await until(all_at_rest)
        before = await sessions()
        messages = await write(database_url, ["t", "u"], writers=8, transactions=120)

        async def many_followed_and_one_found_nothing() -> bool:
            """So they end, unless time or a slow publish ends them first."""
            messages.extend(await write(database_url, ["t"], writers=1, transactions=10))
            return len(found) > 20 and 0 in found

        await until(many_followed_and_one_found_nothing)
        await empty(database_url)
        await until(all_at_rest)
        assert await sessions() == before, "a slot failed and began anew"
    await assess(database_url, broker, messages)
    assert len(broker.records) == len(messages), "nothing failed, so nothing was repeated"
