"""The engine by hand: writers, slots and operators that take one step at a time, on a real PostgreSQL.

Nothing runs by itself. What each step did is compared with the protocol's model (`tests.model`), and what came out
with the promise.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from app import outbox
from app.outbox import OutboxMessage
from relay import delivery, store
from relay.breaker import Breaker, Permit
from relay.delivery import Plan
from relay.floor import Lane
from relay.outcomes import BatchRefused, Delivered, OwedMessage, Refused, TopicUnavailable, Unknown, Unsent
from relay.outcomes import Outcome as RelayOutcome
from relay.settlement import settle
from relay.shared import Shared
from relay.store import Fetched
from tests.engine import settings
from tests.ledger import Added, added
from tests.model import database, mirror
from tests.model.state import Outcome, Slot
from tests.services.postgres_server import dsn
from tests.waiting import until
from tests.writers import driver

TOPICS = "tu"
_LANES = 32
_CLEAR = """
    DELETE FROM outbox_messages; DELETE FROM outbox_parked; DELETE FROM outbox_dead_letters;
    DELETE FROM outbox_topics; DELETE FROM outbox_receipt_batches; ALTER SEQUENCE outbox_messages_id_seq RESTART;
    UPDATE outbox_lanes SET floor = 0, seen = 0, mark = NULL, mark_xid = NULL, has_parked = false
    WHERE seen > 0 OR has_parked
"""
_BLOCKED = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"
# Keys: two of one lane, one of another. Without a key: in the lane of the first two.
_KEYS = """
    SELECT array_agg(key ORDER BY number) FROM (
        SELECT convert_to('key ' || n, 'UTF8') AS key, row_number() OVER (PARTITION BY b & 31 ORDER BY n) AS number,
            b & 31 AS lane
        FROM (SELECT n, outbox_bucket(convert_to('key ' || n, 'UTF8')) AS b FROM generate_series(1, 200) AS n) AS all_of
    ) AS numbered WHERE lane = 1 AND number <= 2 OR lane = 2 AND number = 1
"""


@dataclass
class Writer:
    """A transaction that is being written."""

    session: AsyncSession
    connection: asyncpg.Connection
    message_ids: list[UUID] = field(default_factory=list)
    adding: asyncio.Task[None] | None = None


@dataclass
class Round:
    """A slot's round, as far as it is."""

    permit: Permit
    lanes: list[Lane]
    model: Slot
    fetched: Fetched | None = None
    todo: Plan | None = None
    outcomes: list[tuple[Outcome, int]] | None = None
    """How batches ended, with the offset of the first record."""
    lost: bool = False
    """PostgreSQL ended its session; it does not know yet."""


class Stage:
    """One database with writers, slots and a Kafka in memory. Each slot is a process of its own."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        hour = timedelta(hours=1)  # a pause of a topic ends when a test says so
        self.settings = settings(database_url, relay_probe_min=hour, relay_probe_max=hour, refusals_to_close=3)
        self.world = mirror.world(TOPICS, lanes=_LANES, refusals_to_close=3)

    async def open(self, slots: int) -> None:
        self._writing: AsyncEngine = create_async_engine(self._url, poolclass=NullPool)
        self.watcher = await asyncpg.connect(dsn(self._url), timeout=30)
        self.connections = [await store.connect(self.settings) for _ in range(slots)]
        self.keys: list[bytes] = await self.watcher.fetchval(_KEYS)

    async def close(self) -> None:
        await self.clear()
        for connection in (*self.connections, self.watcher):
            await connection.close(timeout=10)
        await self._writing.dispose()

    async def clear(self) -> None:
        """Everybody stops where he is, and the tables are empty again."""
        for writer in getattr(self, "writers", {}).values():
            await self._end(writer)
        for connection in self.connections:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        await self.watcher.execute(_CLEAR)
        self._clock = 0.0
        self.writers: dict[int, Writer] = {}
        self.rounds: dict[int, Round] = {}
        self.shared = [Shared(self.settings, self._breaker()) for _ in self.connections]
        self.committed: list[Added] = []
        self.records: dict[str, list[OwedMessage]] = {topic: [] for topic in TOPICS}
        self.bad: set[UUID] = set()
        self.free: set[UUID] = set()
        """Dead letters that were discarded, or whose topic let others overtake them."""
        self.failed = False
        """Something did that excuses repeats."""

    def _breaker(self) -> Breaker:
        return Breaker(first_pause=timedelta(seconds=1), longest_pause=timedelta(seconds=1), clock=lambda: self._clock)

    # Writers

    async def begin(self, name: int, *, early: bool) -> None:
        session = AsyncSession(self._writing)
        writer = self.writers[name] = Writer(session, await driver(session))
        if early:
            await writer.connection.execute("SELECT pg_current_xact_id()")

    def add(self, name: int, texts: Sequence[tuple[bytes | None, str, bool]]) -> asyncio.Task[None]:
        """Start to add; messages whose third part is true are refused for what they are."""
        writer = self.writers[name]
        messages = [OutboxMessage(topic=topic, key=key, payload=b"{}", type="t") for key, topic, _ in texts]
        self.bad.update(one.message_id for one, (*_, bad) in zip(messages, texts, strict=True) if bad)
        writer.message_ids = [message.message_id for message in messages]
        writer.adding = asyncio.create_task(self._add(writer.session, messages))
        return writer.adding

    async def _add(self, session: AsyncSession, messages: list[OutboxMessage]) -> None:
        keyed = [message for message in messages if message.key is not None]
        await outbox.add(session, *keyed)
        for message in messages:
            if message.key is None:  # `add` would choose a lane by chance
                await session.execute(
                    text(
                        "INSERT INTO outbox_messages (lane, message_id, topic, payload, type) "
                        "VALUES (1, :message_id, :topic, '{}', 't')"
                    ),
                    {"message_id": message.message_id, "topic": message.topic},
                )

    async def waits(self, name: int) -> bool:
        """Does its add wait for the lock of a key? Otherwise it is done."""
        writer = self.writers[name]
        assert writer.adding is not None

        async def settled() -> str:
            if writer.adding is not None and writer.adding.done():
                return "done"
            return "waits" if await self.watcher.fetchval(_BLOCKED, writer.connection.get_server_pid()) else ""

        if await until(settled) == "waits":
            return True
        await writer.adding
        return False

    async def commit(self, name: int) -> None:
        writer = self.writers.pop(name)
        rows = await added(writer.connection, writer.message_ids)
        await writer.session.commit()
        await writer.session.close()
        self.committed += rows

    async def roll_back(self, name: int) -> None:
        await self._end(self.writers.pop(name))

    async def _end(self, writer: Writer) -> None:
        if writer.adding is not None and not writer.adding.done():
            await self.watcher.execute("SELECT pg_cancel_backend($1)", writer.connection.get_server_pid())
            await asyncio.wait([writer.adding])
            writer.adding.exception()
        await writer.session.close()

    # Slots

    async def claim(self, slot: int, *, alone: bool, cut: int, last: bool) -> None:
        """Look and claim: one lane or all that have work; without work, those whose floor is behind."""
        shared, connection = self.shared[slot], self.connections[slot]
        self._clock += 10
        permit = shared.breaker.permit()
        assert permit is not Permit.REST, "a probe was not given back"
        lanes = sorted((await store.look(connection)).lanes)
        state = await mirror.read(self.watcher, self.world)
        assert lanes == database.look(self.world, state)
        owed = bool(lanes) and not last
        lanes = lanes or [number for number, row in enumerate(state.lanes) if max(row.seen, row.mark) > row.floor]
        if permit is Permit.PROBE:
            alone, cut = True, 1
        await connection.execute("BEGIN")
        limit = 1 if alone else _LANES
        claimed = await store.claim_owed(connection) if owed and not alone else []
        if not claimed:
            claimed = await store.claim(connection, lanes[::-1] if last else lanes, limit=limit)
        if claimed:
            model = mirror.slot(claimed, cut=cut, alone=alone)
            self.rounds[slot] = Round(permit, claimed, model)
        else:
            await self._rest(slot, permit)

    async def fetch(self, slot: int) -> None:
        """Fetch and plan; the model must have fetched the same."""
        this, connection = self.rounds[slot], self.connections[slot]
        cut = this.model.cut
        state = await mirror.read(self.watcher, self.world)
        this.fetched = await store.fetch(connection, this.lanes, messages=cut, size=1_000_000)
        this.model = database.fetch(self.world, state, this.model)._replace(xmin=this.fetched.xmin)
        assert mirror.got(this.fetched) == this.model.got
        assert mirror.returning(this.fetched) == tuple(sorted(this.model.returning))
        this.todo = delivery.plan(this.fetched, messages=cut, size=1_000_000, probes=this.model.alone)

    def publish(self, slot: int, fates: dict[str, str], *, batch: int, broken: int) -> None:
        """What is sent to a topic ends as its fate says, from batch number `broken` on."""
        this = self.rounds[slot]
        assert this.todo is not None
        this.outcomes = []
        singly = self.shared[slot].singly(this.lanes)
        for topic in TOPICS:
            messages = [message for message in this.todo.send if message.topic == topic]
            size = 1 if topic in singly else batch
            for number, start in enumerate(range(0, len(messages), size)):
                fate = fates[topic] if number == broken else "delivered"
                outcome = self._send(this, messages[start : start + size], fate)
                if outcome != "Delivered":
                    rest = tuple(message.id for message in messages[start + size :])
                    this.outcomes += [(Outcome("Unsent", rest), 0)] if rest else []
                    break

    def _send(self, this: Round, batch: list[OwedMessage], fate: str) -> str:
        log = self.records[batch[0].topic]
        offset = len(log)
        if fate != "unavailable" and any(UUID(message.message_id) in self.bad for message in batch):
            kind = "Refused" if len(batch) == 1 else "BatchRefused"
        else:
            kind = {"delivered": "Delivered", "unavailable": "TopicUnavailable", "broken": "Broken"}.get(
                fate, "Unknown"
            )
            if fate in {"delivered", "stored"}:
                log.extend(batch)
            self.failed |= kind in {"Broken", "Unknown"}
        assert this.outcomes is not None
        this.outcomes.append((Outcome(kind, tuple(message.id for message in batch)), offset))
        return kind

    async def settle(self, slot: int) -> None:
        """Conclude, settle and commit; the tables must then be as the model has them."""
        this, shared, connection = self.rounds.pop(slot), self.shared[slot], self.connections[slot]
        assert this.todo is not None
        assert this.fetched is not None
        assert this.outcomes is not None
        ended = delivery.conclude(
            this.todo,
            this.lanes,
            this.fetched,
            _outcomes(this.fetched, this.outcomes),
            others_answered=False,
            refusals_to_close=3,
            due=lambda _before, _after: True,
        )
        shared.learn(ended, this.lanes, this.todo.send)
        if this.lost:
            await self._rest(slot, this.permit)
            return
        state = await mirror.read(self.watcher, self.world)
        await settle(connection, ended.settlement, self.settings)
        await connection.execute("COMMIT")
        await self._rest(slot, this.permit)
        model = this.model._replace(outcomes=tuple(outcome for outcome, _ in this.outcomes))
        if model.got:
            expected = self.world.product.conclude(state.messages, model, xmin=model.xmin, due=True)
            state = database.settle(self.world, state, model, expected)
            for table, rows in mirror.rows(await mirror.read(self.watcher, self.world)).items():
                assert rows == mirror.rows(state)[table], table

    async def lose(self, slot: int, *, frozen: bool) -> None:
        """The session ends before the commit. A frozen slot goes on as if it had not."""
        await self.connections[slot].execute("ROLLBACK")
        self.failed = True
        if frozen and self.rounds[slot].fetched is not None:
            self.rounds[slot].lost = True
        else:
            await self._rest(slot, self.rounds.pop(slot).permit)

    async def _rest(self, slot: int, permit: Permit) -> None:
        if permit is Permit.PROBE:
            self.shared[slot].breaker.unused()
        if self.connections[slot].is_in_transaction():
            await self.connections[slot].execute("ROLLBACK")


def _outcomes(fetched: Fetched, outcomes: Sequence[tuple[Outcome, int]]) -> list[RelayOutcome]:
    owed = {message.id: message for message in fetched.messages}
    result: list[RelayOutcome] = []
    for (kind, ids), offset in outcomes:
        batch = [owed[number] for number in ids]
        kinds: dict[str, RelayOutcome] = {
            "Delivered": Delivered(batch, partition=0, offset=offset),
            "Refused": Refused(batch[0], "refused"),
            "BatchRefused": BatchRefused(batch, "refused"),
            "TopicUnavailable": TopicUnavailable(batch[0].topic, batch, "unavailable"),
            "Unknown": Unknown(batch, "no answer"),
            "Broken": Unknown(batch, "broken sequence", answered=True),
            "Unsent": Unsent(batch),
        }
        result.append(kinds[kind])
    return result
