"""The consumer loop: fetch, handle in one transaction, and only then move the offset.

What a crash leaves behind is fetched again and recognised by the inbox. So the offsets are an economy, never a
promise: they may lag behind PostgreSQL, and never run ahead of it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from sqlalchemy.ext.asyncio import AsyncSession

from app import failpoints, lifecycle, log, metrics
from app.db import sqlstate
from app.errors import BrokerUnavailable, Unavailable
from app.inbox import store
from app.kafka.batch import Batches
from app.kafka.client import options
from app.kafka.fetcher import TURN, Fetched, Fetcher
from app.kafka.input import Input
from app.kafka.offsets import Offsets
from app.lifecycle import jittered
from app.settings import Settings

logger = log.get(__name__)

_T = TypeVar("_T")

_START = timedelta(seconds=15)
_CLOSE = timedelta(seconds=5)
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.1), timedelta(seconds=5)


class Consumer(Generic[_T]):
    """One member of a group. Any number of them may run, anywhere; partitions are spread over them by Kafka."""

    def __init__(
        self, settings: Settings, batches: Batches[_T], *, topics: Collection[str], accept_gap: bool = False
    ) -> None:
        self._settings = settings
        self._batches = batches
        self._topics = topics
        self._accept_gap = accept_gap
        self._member: _Member[_T] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until told to stop; the batch in hand is finished first, within CONSUMER_DRAIN_DEADLINE.

        Raises BrokerUnavailable when no broker answers; whoever runs the consumer starts it again after a pause.
        """
        self._member = _Member(self._settings, self._batches, self._topics, accept_gap=self._accept_gap)
        try:
            await self._member.run(stop)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"Kafka does not serve the consumer {self._batches.name}") from error
        finally:
            self._member = None

    async def check(self) -> None:
        """Raise Unavailable unless records are being fetched, from all partitions."""
        name = self._batches.name
        if self._member is None:
            raise Unavailable(f"the consumer {name} does not run; it is started again")
        self._member.check()


class _Member(ConsumerRebalanceListener, Generic[_T]):  # type: ignore[misc]  # aiokafka has no types
    """A member from joining to leaving."""

    def __init__(self, settings: Settings, batches: Batches[_T], topics: Collection[str], *, accept_gap: bool) -> None:
        self._settings = settings
        self._batches = batches
        self._topics = topics
        self._kafka = AIOKafkaConsumer(**options(settings, batches.name))
        self._offsets = Offsets(self._kafka, batches.name, accept_gap=accept_gap)
        self._owner: UUID = uuid4()
        self._fresh: set[TopicPartition] = set()
        self._careful: dict[TopicPartition, int] = {}
        self._marked = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._fetcher = Fetcher(self._kafka, self._offsets, settings, consumer=batches.name, idle=self._idle)
        self._hurry = asyncio.Event()
        self._stopping = False
        self._waiting_since = time.time()
        self._turned_at = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        hurrying = asyncio.create_task(self._hurry_at(stop))
        try:
            await lifecycle.within(_START, self._kafka.start())
            self._kafka.subscribe(topics=list(self._topics), listener=self)
            while not stop.is_set():
                self._turned_at = time.monotonic()
                fetched = await self._fetch(stop)
                try:
                    if fetched:
                        await failpoints.reach("ingest.after_fetch")
                        await self._take(fetched)
                        self._waiting_since = time.time()
                finally:
                    self._idle.set()
                await self._offsets.commit()
            await self._tidy_up()
        finally:
            hurrying.cancel()
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await lifecycle.within(_CLOSE, self._kafka.stop())

    async def _hurry_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        # What is in hand may be finished, but nothing waits for a database that is away.
        self._hurry.set()

    async def _fetch(self, stop: asyncio.Event) -> Fetched:
        """What comes next; nothing when told to stop. While the group shares out its partitions this waits."""
        fetching = asyncio.create_task(self._fetcher.next())
        stopping = asyncio.create_task(stop.wait())
        try:
            while not fetching.done() and not stop.is_set():
                await asyncio.wait(
                    {fetching, stopping}, timeout=TURN.total_seconds(), return_when=asyncio.FIRST_COMPLETED
                )
                self._turned_at = time.monotonic()
                if (silence := self._silence()) > self._settings.consumer_stalled_after:
                    raise BrokerUnavailable(f"nothing was fetched for {silence.total_seconds():.0f} s")
        finally:
            stopping.cancel()
            if not fetching.done():
                fetching.cancel()
                await asyncio.wait({fetching})
        return {} if fetching.cancelled() else fetching.result()

    async def _take(self, fetched: Fetched) -> None:
        """Handle what was fetched and move the offsets over what is done."""
        if not await self._patiently(self._take_over):
            return
        batch = {tp: found for tp, found in fetched.items() if not self._careful.get(tp)}
        careful = {tp: found for tp, found in fetched.items() if tp not in batch}
        if batch and not await self._take_batch(batch):
            return
        for tp, found in careful.items():
            if not await self._take_singly(tp, found):
                return

    async def _take_batch(self, batch: Fetched) -> bool:
        records = [record for found in batch.values() for record in found]
        try:
            if not await self._patiently(lambda: self._batches.handle(records)):
                return False
        except Exception as error:
            # One of them is at fault, and its mates must not suffer.
            metrics.consumer_failures.labels(self._batches.name, sqlstate(error) or type(error).__name__).inc()
            logger.warning("batch.failed", consumer=self._batches.name, records=len(records), exc_info=error)
            return all([await self._take_singly(tp, found) for tp, found in batch.items()])
        for tp, found in batch.items():
            self._offsets.done(tp, found[-1].offset)
        await self._offsets.commit()
        return True

    async def _take_singly(self, tp: TopicPartition, found: Sequence[Input]) -> bool:
        for record in found:
            if self._hurry.is_set() or not await self._patiently(lambda: self._batches.handle_singly(record)):  # noqa: B023 - awaited here
                break
            self._offsets.done(tp, record.offset)
            if left := self._careful.get(tp):
                self._careful[tp] = left - 1
        else:
            await self._offsets.commit()
            return True
        await self._offsets.commit()
        return False

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do it, and again while the database is away. False when there is no time for that: nothing was done."""
        pause = _FIRST_PAUSE
        while True:
            self._turned_at = time.monotonic()
            try:
                await work()
                return True
            except Unavailable as error:
                metrics.consumer_failures.labels(self._batches.name, "unavailable").inc()
                logger.warning("consumer.waits", consumer=self._batches.name, reason=str(error))
            if self._hurry.is_set() or await lifecycle.wait(self._hurry, jittered(pause)):
                return False
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Kafka's word that these go to somebody: finish what is in hand first, or it would be done twice."""
        metrics.consumer_rebalances.labels(self._batches.name).inc()
        self._hurry.set()
        await failpoints.reach("ingest.on_revoke")
        if not await lifecycle.wait(self._idle, self._settings.consumer_drain_deadline):
            logger.warning("consumer.revoked_in_hand", consumer=self._batches.name)
        await self._tidy_up()
        self._offsets.forget(revoked)
        self._careful.clear()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Kafka's word that these are ours."""
        self._fresh = set(assigned)
        self._offsets.assigned(assigned)
        if not self._stopping:
            self._hurry.clear()
        logger.info("consumer.assigned", consumer=self._batches.name, partitions=len(assigned))

    async def _take_over(self) -> None:
        """Put our name on new partitions. Where the last reader's is still on it, it may have died of a record: up to
        a batch of records is taken singly there.
        """
        fresh = self._fresh
        if not fresh:
            return

        async def work(session: AsyncSession) -> set[store.Partition]:
            places = sorted((tp.topic, tp.partition) for tp in fresh)
            return await store.take_over(session, self._batches.name, places, self._owner)

        untidy = await self._batches.in_transaction(work)
        await failpoints.reach("ingest.after_take_over")
        for topic, partition in untidy:
            self._careful[TopicPartition(topic, partition)] = self._settings.consumer_batch_records
            logger.warning("consumer.careful", consumer=self._batches.name, topic=topic, partition=partition)
        fresh.clear()  # not what was assigned meanwhile
        self._marked = True

    async def _tidy_up(self) -> None:
        """Take our name off, so that the next reader need not be careful; unless we still had to be."""
        if not self._marked or any(self._careful.values()) or not self._idle.is_set():
            return

        async def work(session: AsyncSession) -> None:
            await store.let_go(session, self._batches.name, self._owner)

        with contextlib.suppress(Unavailable):  # then the next one is careful in vain
            await self._batches.in_transaction(work)
            self._marked = False

    def _silence(self) -> timedelta:
        """How long ago a broker last answered a fetch of the partition that waits longest, since we wait for it."""
        assigned = self._kafka.assignment() - self._kafka.paused()
        moments = [self._kafka.last_poll_timestamp(tp) or 0 for tp in assigned]
        if not moments:
            moments = [0 if self._offsets.never_assigned else time.time() * 1000]
        return timedelta(seconds=max(0.0, time.time() - max(self._waiting_since, min(moments) / 1000)))

    def check(self) -> None:
        """Raise Unavailable unless all is well."""
        name, limit = self._batches.name, self._settings.consumer_stalled_after
        stuck = timedelta(seconds=time.monotonic() - self._turned_at)
        if stuck > limit:
            raise Unavailable(f"the consumer {name} did not come round for {stuck.total_seconds():.0f} s")
        if missing := [topic for topic in self._topics if not self._kafka.partitions_for_topic(topic)]:
            raise Unavailable(f"there is no topic {', '.join(missing)}: `outbox topics ensure` makes it")
        if gaps := self._offsets.gaps:
            raise Unavailable(
                f"the next records of {', '.join(f'{tp.topic}-{tp.partition}' for tp in gaps)} are gone from Kafka, "
                "unread, or corrupt there; `--accept-gap` goes on after them"
            )
