"""The slots: each looks for work, claims lanes, publishes, settles, until told to stop."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import asyncpg

from app import log, metrics
from app.db import is_transient, sqlstate, unavailable
from app.errors import BrokerUnavailable
from app.lifecycle import jittered, supervise, wait
from app.outbox.models import LANES
from app.settings import Settings
from relay import housekeeping, store
from relay.breaker import Breaker, Permit
from relay.delivery import Conclusion, conclude, plan
from relay.floor import Lane, moved
from relay.outcomes import Outcome, OwedMessage, Publisher
from relay.traffic import PATIENCE, Traffic

logger = log.get(__name__)

_STRIDE = 11
"""From claim to claim the first lane moves by this; relays start anywhere, and 11 visits all 32 lanes."""
_CLOSE = timedelta(seconds=2)


@dataclass(slots=True)
class Shared:
    """What the slots of one process know together."""

    settings: Settings
    breaker: Breaker
    traffic: Traffic = field(default_factory=Traffic)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    one_by_one: set[tuple[int, str]] = field(default_factory=set)
    probe: int | None = None
    """A lane with the probe of a half-open topic; it gets a round of its own, one at a time."""
    probing: bool = False
    starts: Iterator[int] = field(default_factory=lambda: count(secrets.randbelow(LANES), step=_STRIDE))
    lanes_written_at: dict[int, float] = field(default_factory=dict)
    last_round_at: float = field(default_factory=time.monotonic)

    def due(self, before: Lane, after: Lane) -> bool:
        """Is it worth writing this lane's row? Rarely: each write leaves a dead row version behind."""
        since = time.monotonic() - self.lanes_written_at.get(after.lane, 0.0)
        return (
            moved(before, after) >= self.settings.relay_floor_step
            or since >= self.settings.relay_floor_interval.total_seconds()
        )

    def alive(self) -> None:
        """A slot finished a round, or had good reason to rest."""
        self.last_round_at = time.monotonic()
        metrics.last_round.set_to_current_time()


@dataclass(frozen=True, slots=True)
class Share:
    """How much one claim may take, and from which lane on; `probe`: it is there to probe a topic."""

    lanes: int
    messages: int
    size: int
    start: int
    probe: bool = False


class Slot:
    """One delivering coroutine with its connection and its publisher."""

    def __init__(self, shared: Shared, publisher: Publisher) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._publisher = publisher

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop; the batch in hand is finished first.

        Raises DatabaseUnavailable when the connection fails; what was not settled stays owed, and whoever runs the slot
        starts it again after a pause.
        """
        connection = await store.connect(self._settings)
        metrics.slots_connected.inc()
        try:
            await self._serve(connection, stop)
            await connection.close(timeout=_CLOSE.total_seconds())
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            metrics.settle_failures.labels(sqlstate(error) or type(error).__name__).inc()
            if is_transient(error):
                raise unavailable(error) from error
            raise
        finally:
            metrics.slots_connected.dec()
            self._shared.traffic.hand_over(self)
            connection.terminate()
            await self._publisher.close()

    async def _serve(self, connection: asyncpg.Connection, stop: asyncio.Event) -> None:
        idle = self._settings.relay_poll_min
        while not stop.is_set():
            await self._shared.traffic.turn(self)
            if stop.is_set():
                return
            if await self._attempt(connection, stop):
                idle = self._settings.relay_poll_min
            elif self._shared.traffic.on_duty(self):
                await wait(self._shared.wake, jittered(idle))
                idle = min(idle * 2, self._settings.relay_poll_max)

    async def _attempt(self, connection: asyncpg.Connection, stop: asyncio.Event) -> bool:
        """One round, if the breaker allows one. Did it deliver, hold or refuse anything?"""
        breaker, settings = self._shared.breaker, self._settings
        permit = breaker.permit()
        if permit is Permit.REST:
            self._shared.alive()
            await wait(stop, settings.relay_poll_max)
            return False
        try:
            await self._publisher.open()
        except BrokerUnavailable:
            breaker.failed()
            metrics.broker_failures.labels("unreachable").inc()
            return False
        finally:
            metrics.broker_available.set(breaker.closed)
        self._shared.wake.clear()
        share = self._share(permit)
        try:
            return await self._round(connection, share)
        finally:
            if permit is Permit.PROBE:
                breaker.unused()
            if share.probe:
                self._shared.probing = False
            self._shared.alive()

    def _share(self, permit: Permit) -> Share:
        """One message to probe the broker; one lane under pressure or to probe a topic; else a little of all lanes."""
        shared, settings = self._shared, self._settings
        start = next(shared.starts) % LANES
        if permit is Permit.PROBE:
            return Share(lanes=1, messages=1, size=1, start=start)
        if shared.probe is not None and not shared.probing:
            lane, shared.probe, shared.probing = shared.probe, None, True
            return Share(1, settings.relay_batch_messages, settings.relay_batch_bytes, lane, probe=True)
        if shared.traffic.pressure:
            return Share(1, settings.relay_batch_messages, settings.relay_batch_bytes, start)
        size = max(1, settings.relay_batch_bytes // LANES)
        return Share(LANES, settings.relay_light_messages, size, start)

    async def _round(self, connection: asyncpg.Connection, share: Share) -> bool:
        """Claim, fetch, publish, settle, in one transaction: the lanes' row locks are the lease."""
        shared, settings = self._shared, self._settings
        if share.lanes > 1 and not await store.look(connection):
            return False
        async with connection.transaction():
            lanes = await store.claim(connection, start=share.start, lanes=share.lanes)
            if not lanes:
                shared.traffic.relax()
                return False
            fetched = await store.fetch(connection, lanes, messages=share.messages, size=share.size)
            todo = plan(fetched, messages=share.messages, size=share.size, probes=share.lanes == 1)
            shared.probe = todo.probe if shared.probe is None else shared.probe
            if not todo.full:
                shared.traffic.relax()
            elif share.lanes > 1:
                shared.traffic.call_all()
            started = time.monotonic()
            outcomes = await self._publish(todo.send, lanes)
            ended = conclude(
                todo,
                lanes,
                fetched,
                outcomes,
                others_answered=shared.breaker.answered_at > started,
                refusals_to_close=settings.refusals_to_close,
                due=shared.due,
            )
            self._learn(ended, lanes, todo.send)
            await store.settle(connection, ended.settlement, settings)
        self._settled(ended)
        return bool(fetched.messages)

    async def _publish(self, messages: Sequence[OwedMessage], lanes: Sequence[Lane]) -> Sequence[Outcome]:
        """Send what may go. Other slots take over the looking when the broker is slow."""
        if not messages:
            return []
        shared = self._shared
        claimed = {lane.lane for lane in lanes}
        singly = {topic for lane, topic in shared.one_by_one if lane in claimed}
        patience = asyncio.get_running_loop().call_later(PATIENCE.total_seconds(), shared.traffic.hand_over, self)
        try:
            with metrics.publish_seconds.time():
                return await self._publisher.publish(messages, singly=singly, deadline=self._settings.publish_deadline)
        finally:
            patience.cancel()

    def _learn(self, ended: Conclusion, lanes: Sequence[Lane], sent: Sequence[OwedMessage]) -> None:
        """Take over what concerns this process: the broker's breaker, and what must go one by one."""
        shared = self._shared
        if ended.silent is not None:
            shared.breaker.failed()
            metrics.broker_failures.labels(ended.silent).inc()
            logger.warning("broker.silent", reason=ended.silent, unsettled=ended.repeats)
        elif ended.answered:
            shared.breaker.answered()
        metrics.broker_available.set(shared.breaker.closed)
        metrics.repeats_possible.inc(ended.repeats)
        if shared.one_by_one:
            claimed = {lane.lane for lane in lanes}
            settled = {message.id for batch in ended.settlement.delivered for message in batch.messages}
            settled |= {letter.message.id for letter in ended.settlement.refused}
            left = {(message.lane, message.topic) for message in sent if message.id not in settled}
            shared.one_by_one = {pair for pair in shared.one_by_one if pair[0] not in claimed or pair in left}
        shared.one_by_one |= ended.one_by_one

    def _settled(self, ended: Conclusion) -> None:
        """After the commit: count it."""
        now = time.monotonic()
        settlement = ended.settlement
        for lane in settlement.lanes:
            self._shared.lanes_written_at[lane.lane] = now
        metrics.claims.labels("settled").inc()
        moment = datetime.now(UTC)
        for batch in settlement.delivered:
            oldest = batch.messages[0]
            metrics.delivered.labels(oldest.topic).inc(len(batch.messages))
            metrics.end_to_end_seconds.observe((moment - datetime.fromisoformat(oldest.created_at)).total_seconds())
        for letter in settlement.refused:
            metrics.refused.labels(letter.message.topic, letter.reason).inc()
            logger.error(
                "message.refused",
                message_id=letter.message.message_id,
                topic=letter.message.topic,
                reason=letter.reason,
            )
        for topic, change in settlement.topics.items():
            if change.reason is not None:
                metrics.topic_closed.labels(topic, change.reason.partition(",")[0]).inc()
                logger.warning("topic.closed", topic=topic, reason=change.reason)
            elif change.confirmed:
                logger.info("topic.confirmed", topic=topic)


class Relay:
    """All slots of a process and their housekeeping. Any number of relays may run, anywhere."""

    def __init__(self, settings: Settings, publisher: Callable[[], Publisher]) -> None:
        breaker = Breaker(first_pause=settings.relay_probe_min, longest_pause=settings.relay_probe_max)
        self._shared = Shared(settings, breaker)
        self._slots = [Slot(self._shared, publisher()) for _ in range(settings.relay_slots)]

    def wake(self) -> None:
        """Something was committed in this process: look now. Only a hint; polling finds everything."""
        self._shared.wake.set()

    @property
    def idle_for(self) -> timedelta:
        """How long ago a slot last finished a round or found nothing to do."""
        return timedelta(seconds=time.monotonic() - self._shared.last_round_at)

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop; then finish or abandon the batches in hand within the publish deadline."""
        settings = self._shared.settings
        tasks = [
            asyncio.create_task(supervise(f"slot-{number}", partial(slot.run, stop), stop), name=f"slot-{number}")
            for number, slot in enumerate(self._slots)
        ]
        keeper = partial(housekeeping.run, settings, stop)
        tasks.append(asyncio.create_task(supervise("housekeeping", keeper, stop), name="housekeeping"))
        try:
            await stop.wait()
            self._shared.traffic.release()
            self._shared.wake.set()
            _, late = await asyncio.wait(tasks, timeout=settings.publish_deadline.total_seconds() + 2)
            if late:
                logger.warning("relay.stopped_late", tasks=sorted(task.get_name() for task in late))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
