"""A slot: looks for work, claims lanes, publishes, settles, until told to stop."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

from app import failpoints, log, metrics
from app.db import DRIVER_ERRORS, is_transient, sqlstate, unavailable
from app.errors import BrokerUnavailable, DatabaseUnavailable
from app.lifecycle import jittered, wait
from relay import store
from relay.breaker import Permit
from relay.delivery import conclude, plan
from relay.floor import Lane
from relay.outcomes import Outcome, OwedMessage, Publisher
from relay.settlement import Settlement, settle
from relay.shared import Share, Shared
from relay.traffic import PATIENCE

logger = log.get(__name__)

_RECONNECT_FIRST, _RECONNECT_LONGEST = timedelta(seconds=0.1), timedelta(seconds=1)
_CLOSE = timedelta(seconds=2)
_ROUNDS_SETTLED = metrics.claims.labels("settled")


@dataclass(slots=True)
class _Done:
    """How far a round came: what is known even when its commit fails. `goes_on`: its commit began the next one."""

    lanes: Sequence[Lane]
    messages: int = 0
    settlement: Settlement = field(default_factory=Settlement)
    goes_on: bool = False

    @property
    def confirmed(self) -> int:
        """Messages that the broker confirmed."""
        return sum(len(batch.messages) for batch in self.settlement.delivered)


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
        connection = await self._connect(stop)
        if connection is None:
            return
        metrics.slots_connected.inc()
        try:
            await self._serve(connection, stop)
            await connection.close(timeout=_CLOSE.total_seconds())
        except DRIVER_ERRORS as error:
            metrics.settle_failures.labels(sqlstate(error) or type(error).__name__).inc()
            if is_transient(error):
                raise unavailable(error) from error
            raise
        finally:
            metrics.slots_connected.dec()
            self._shared.traffic.hand_over(self)
            connection.terminate()
            await self._publisher.close()

    async def _connect(self, stop: asyncio.Event) -> asyncpg.Connection | None:
        """Try until PostgreSQL takes the connection, or until told to stop."""
        pause = _RECONNECT_FIRST
        while not stop.is_set():
            try:
                return await store.connect(self._settings)
            except DatabaseUnavailable as error:
                logger.warning("slot.waits_for_database", reason=str(error))
                await wait(stop, jittered(pause))
                pause = min(pause * 2, _RECONNECT_LONGEST)
        return None

    async def _serve(self, connection: asyncpg.Connection, stop: asyncio.Event) -> None:
        idle, busy = self._settings.relay_poll_min, False
        while not stop.is_set():
            await self._shared.traffic.turn(self)
            if stop.is_set():
                return
            busy = await self._attempt(connection, stop, busy=busy)
            if busy:
                idle = self._settings.relay_poll_min
            elif self._shared.traffic.pressure:  # other slots hold what there is; the end of a round wakes this one
                await wait(self._shared.wake, self._settings.relay_poll_max)
            elif self._shared.traffic.on_duty(self):
                await wait(self._shared.wake, jittered(idle))
                idle = min(idle * 2, self._settings.relay_poll_max)

    async def _attempt(self, connection: asyncpg.Connection, stop: asyncio.Event, *, busy: bool) -> bool:
        """Look and do a round, if the breaker allows one; more rounds while this one is `busy`, as the last attempt
        was. Did any deliver, hold or refuse anything?
        """
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
        share = self._shared.known(permit)
        try:
            if share is None:
                look = await store.look(connection)
                self._shared.payload_max = look.payload_max
                share = self._shared.found(look.lanes, permit)
            return share is not None and await self._rounds(connection, share, stop, busy=busy)
        finally:
            if permit is Permit.PROBE:
                breaker.unused()
            if share is not None and share.probe:
                self._shared.probing = False
            self._shared.alive()

    async def _rounds(self, connection: asyncpg.Connection, share: Share, stop: asyncio.Event, *, busy: bool) -> bool:
        """A round; under steady light traffic the commit begins the next one, which claims without a look what is owed,
        until one finds nothing or it is time to look for other work. Did any deliver, hold or refuse anything?

        Whatever is raised ends the connection, and with it the transaction.
        """
        await connection.execute("BEGIN")
        lanes = await store.claim(connection, share.lanes, limit=share.limit)
        until = time.monotonic() + self._settings.relay_poll_max.total_seconds() if busy else 0.0
        done = await self._round(connection, lanes, share, stop, until=until)
        worked = done.messages > 0
        while done.goes_on and not stop.is_set():
            self._shared.alive()
            self._shared.wake.clear()
            lanes = await store.claim_owed(connection)
            share = self._shared.light([lane.lane for lane in lanes])
            done = await self._round(connection, lanes, share, stop, until=until)
        return worked

    async def _round(
        self, connection: asyncpg.Connection, lanes: Sequence[Lane], share: Share, stop: asyncio.Event, *, until: float
    ) -> _Done:
        """What is done with lanes just claimed, to the commit; that begins the next round, if there is one before
        `until`. Their row locks are the lease: the transaction stays open while Kafka answers.
        """
        done = _Done(lanes)
        try:
            await self._deliver_and_settle(connection, share, done)
            done.goes_on = time.monotonic() < until and self._steady(share, done) and not stop.is_set()
            await connection.execute("COMMIT AND CHAIN" if done.goes_on else "COMMIT")
        except BaseException:
            metrics.repeats_possible.inc(done.confirmed)  # Kafka has them, the outbox owes them again
            raise
        finally:
            self._shared.released(lanes)
        await failpoints.reach("relay.after_commit")
        self._settled(done)
        return done

    def _steady(self, share: Share, done: _Done) -> bool:
        """Does this slot do all the work, as under light traffic, and was all it found confirmed, so that there is
        nothing to see to before the next claim?
        """
        shared = self._shared
        alone = shared.traffic.on_duty(self) and not shared.traffic.pressure
        return alone and share.limit > 1 and shared.probe is None and 0 < done.messages == done.confirmed

    async def _deliver_and_settle(self, connection: asyncpg.Connection, share: Share, done: _Done) -> None:
        """Fetch, publish, settle; the caller commits."""
        shared, settings, lanes = self._shared, self._settings, done.lanes
        shared.claimed(lanes)
        await failpoints.reach("relay.after_claim")
        if not lanes:
            return
        fetched = await store.fetch(
            connection, lanes, messages=share.messages, size=share.size, counted=shared.counted(share)
        )
        await failpoints.reach("relay.after_fetch")
        done.messages = len(fetched.messages)
        todo = plan(fetched, messages=share.messages, size=share.size, probes=share.limit == 1)
        shared.planned(share, lanes, todo)
        started = time.monotonic()
        outcomes = await self._publish(todo.send, lanes) if todo.send else []
        await failpoints.reach("relay.after_ack_before_settle")
        ended = conclude(
            todo,
            lanes,
            fetched,
            outcomes,
            others_answered=shared.breaker.answered_at > started,
            refusals_to_close=settings.refusals_to_close,
            due=shared.due,
        )
        done.settlement = ended.settlement
        shared.learn(ended, lanes, todo.send)
        await settle(connection, ended.settlement, settings)
        await failpoints.reach("relay.before_commit")

    async def _publish(self, messages: Sequence[OwedMessage], lanes: Sequence[Lane]) -> Sequence[Outcome]:
        """Send what may go. Other slots take over the looking when the broker is slow."""
        shared, started = self._shared, time.monotonic()
        patience = asyncio.get_running_loop().call_later(PATIENCE.total_seconds(), shared.traffic.hand_over, self)
        try:
            return await self._publisher.publish(
                messages, singly=shared.singly(lanes), deadline=self._settings.publish_deadline
            )
        finally:
            patience.cancel()
            metrics.publish_seconds.observe(time.monotonic() - started)

    def _settled(self, done: _Done) -> None:
        """After the commit: count it."""
        settlement = done.settlement
        self._shared.written(settlement.lanes)
        _ROUNDS_SETTLED.inc()
        now, confirmed = time.time(), defaultdict[str, int](int)
        for batch in settlement.delivered:
            oldest = batch.messages[0]
            confirmed[oldest.topic] += len(batch.messages)
            metrics.end_to_end_seconds.observe(now - oldest.created_at / 1_000_000)
        for topic, number in confirmed.items():
            metrics.delivered.labels(topic).inc(number)
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
