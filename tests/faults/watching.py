"""What tests with faults ask of PostgreSQL and of the relay while it works."""

import io
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import asyncpg

from app import log, metrics
from app.outbox.models import LANES
from relay.loop import Relay
from tests.judge import verify
from tests.ledger import Added, Ledger
from tests.relaying import hurried
from tests.services.kafka import Kafka, Record
from tests.waiting import until


class Watch(Ledger):
    """A ledger that also looks at what became of its messages."""

    def __init__(self, writer: asyncpg.Connection, reader: asyncpg.Connection) -> None:
        super().__init__(writer)
        self._reader = reader
        self._repeats_before = _repeats_possible()

    @property
    def repeats_possible(self) -> int:
        """How many messages the relay has said it may send again, since the test began."""
        return round(_repeats_possible() - self._repeats_before)

    async def delivered(self, messages: Iterable[Added], timeout: timedelta = timedelta(seconds=60)) -> None:
        """Wait until all of them have receipts."""
        ids = {message.message_id for message in messages}

        async def all_have_receipts() -> bool:
            return len(ids) == await self._value(
                "SELECT count(DISTINCT message_id) FROM outbox_receipts WHERE message_id = ANY($1)", ids
            )

        await until(all_have_receipts, timeout)

    async def closed(self, topic: str, timeout: timedelta = timedelta(seconds=60)) -> str:
        """Wait until the topic is closed; why it is."""

        async def reason() -> object:
            return await self._value("SELECT close_reason FROM outbox_topics WHERE topic = $1", topic)

        return str(await until(reason, timeout))

    async def dead(self, message: Added, timeout: timedelta = timedelta(seconds=60)) -> str:
        """Wait until the message is an undecided dead letter; why it is."""

        async def reason() -> object:
            return await self.is_dead(message)

        return str(await until(reason, timeout))

    async def is_dead(self, message: Added) -> object:
        """Why the message is an undecided dead letter, if it is one."""
        return await self._value(
            "SELECT reason FROM outbox_dead_letters WHERE message_id = $1 AND state = 'dead'", message.message_id
        )

    async def parked(self, messages: Iterable[Added], timeout: timedelta = timedelta(seconds=60)) -> None:
        """Wait until all of them lie parked."""
        ids = [message.message_id for message in messages]

        async def all_are_parked() -> bool:
            return len(ids) == await self._value("SELECT count(*) FROM outbox_parked WHERE message_id = ANY($1)", ids)

        await until(all_are_parked, timeout)

    async def claimed(self) -> None:
        """Wait until a slot holds a lane."""

        async def a_lane_is_locked() -> object:
            return await self._value(
                "SELECT count(*) < $1 FROM (SELECT FROM outbox_lanes FOR UPDATE SKIP LOCKED) AS free", LANES
            )

        await until(a_lane_is_locked)

    async def delays(self, messages: Iterable[Added]) -> list[float]:
        """Seconds from writing each message to its receipt, sorted."""
        rows = await self._reader.fetch(
            "SELECT extract(epoch FROM delivered_at - created_at)::float8 FROM outbox_receipts "
            "WHERE message_id = ANY($1)",
            [message.message_id for message in messages],
        )
        return sorted(row[0] for row in rows)

    async def verify(self, kafka: Kafka, database_url: str, *, dead: Collection[UUID] = ()) -> list[Record]:
        """The verdict on all that was added; no more repeats than the relay has admitted."""
        return await verify(kafka, database_url, self.messages, repeats=self.repeats_possible, dead=dead)

    async def _value(self, sql: str, argument: object) -> object:
        value: object = await self._reader.fetchval(sql, argument)
        return value


async def down(relay: Relay) -> None:
    """Wait until the relay has found that no broker answers."""

    async def breaker_is_open() -> bool:
        return not relay._shared.breaker.closed

    await until(breaker_is_open)


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What a process of the relay would write, its logging set up as it sets it up."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level, clients = list(root.handlers), root.level, [logging.getLogger("aiokafka")]
    clients += [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("aiokafka.")]
    before = [(client, list(client.filters), client.level) for client in clients]
    log.configure(hurried("postgresql://nobody@127.0.0.1/nothing", "127.0.0.1:1", log_format="json"), stream)
    try:
        yield stream
    finally:
        root.handlers, root.level = handlers, level
        for client, filters, previous in before:
            client.filters = filters
            client.setLevel(previous)


def _repeats_possible() -> float:
    (metric,) = metrics.repeats_possible.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))
