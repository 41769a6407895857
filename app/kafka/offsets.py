"""Where a consumer is in its partitions: what it has done, what Kafka was told, and what nobody can read any more."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from app import failpoints, lifecycle, log, metrics

logger = log.get(__name__)

_DEADLINE = timedelta(seconds=5)

# The partition is somebody else's by now: its records were, or will be, recognised as repeats.
_NOT_OURS = (CommitFailedError, IllegalStateError)


class Offsets:
    """Offsets of one member of a group."""

    def __init__(self, kafka: AIOKafkaConsumer, consumer: str, *, accept_gap: bool) -> None:
        self._kafka = kafka
        self._consumer = consumer
        self._accept_gap = accept_gap
        self._uncommitted: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}
        self.gaps: dict[TopicPartition, int] = {}
        self.never_assigned = True

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """These are ours from now on."""
        self.never_assigned = False
        for tp in partitions:
            metrics.consumer_gap.labels(self._consumer, tp.topic, tp.partition).set(0)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """These are no longer ours."""
        self._uncommitted.clear()
        self._next.clear()
        self.gaps.clear()
        for tp in partitions:
            for gauge in (metrics.consumer_lag, metrics.consumer_gap):
                gauge.remove(self._consumer, tp.topic, str(tp.partition))

    def done(self, tp: TopicPartition, offset: int) -> None:
        """The record at this offset and all before it are done with, and that is committed in PostgreSQL."""
        self._uncommitted[tp] = self._next[tp] = offset + 1

    async def commit(self) -> None:
        """Tell Kafka. What it does not take is told again with the next; nothing depends on it but repeats."""
        self._measure()
        if not self._uncommitted:
            return
        offsets = dict(self._uncommitted)
        await failpoints.reach("ingest.before_offset")
        try:
            # By itself the client would try for ever.
            await lifecycle.within(_DEADLINE, self._kafka.commit(offsets))
        except _NOT_OURS as error:
            metrics.consumer_commit_failures.labels(self._consumer, type(error).__name__).inc()
            self._uncommitted.clear()
        except (KafkaError, OSError, TimeoutError) as error:
            metrics.consumer_commit_failures.labels(self._consumer, type(error).__name__).inc()
            logger.warning("offsets.not_committed", consumer=self._consumer, error=type(error).__name__)
        else:
            for tp, offset in offsets.items():
                if self._uncommitted.get(tp) == offset:
                    del self._uncommitted[tp]
            await failpoints.reach("ingest.after_offset")

    def _measure(self) -> None:
        for tp in self._kafka.assignment():
            end = self._kafka.highwater(tp)
            if end is not None and tp in self._next:
                metrics.consumer_lag.labels(self._consumer, tp.topic, tp.partition).set(max(0, end - self._next[tp]))

    async def begin(self, tp: TopicPartition) -> None:
        """The group has never committed an offset there: everything is to be read."""
        logger.info("consumer.begins", consumer=self._consumer, topic=tp.topic, partition=tp.partition)
        await lifecycle.within(_DEADLINE, self._kafka.seek_to_beginning(tp))

    async def meet_gaps(self, positions: Mapping[TopicPartition, int]) -> None:
        """Kafka does not have these offsets. Retention may have deleted records that nobody read, so nobody jumps over
        them in silence: the partition stands still until a person accepts the gap.
        """
        for tp, offset in positions.items():
            beginnings = await lifecycle.within(_DEADLINE, self._kafka.beginning_offsets([tp]))
            self.meet_gap(tp, offset, beginnings[tp])

    def meet_gap(self, tp: TopicPartition, offset: int, following: int) -> None:
        """Nobody can read what is from `offset` up to `following`."""
        place = {"consumer": self._consumer, "topic": tp.topic, "partition": tp.partition, "offset": offset}
        if self._accept_gap:
            logger.error("consumer.gap_accepted", **place, goes_on_at=following)
            self._next[tp] = following
            self._kafka.seek(tp, following)
        else:
            self._kafka.pause(tp)
            self.gaps[tp] = offset
            metrics.consumer_gap.labels(self._consumer, tp.topic, tp.partition).set(1)
            logger.error("consumer.gap", **place)

    async def rewind(self) -> dict[TopicPartition, int]:
        """Fetch again, in all partitions, what is not done; from which offsets."""
        positions = {}
        for tp in self._kafka.assignment() - self._kafka.paused():
            offset = self._next.get(tp)
            if offset is None:
                offset = await lifecycle.within(_DEADLINE, self._kafka.committed(tp))
            if offset is None:
                offset = (await lifecycle.within(_DEADLINE, self._kafka.beginning_offsets([tp])))[tp]
            self._kafka.seek(tp, offset)
            positions[tp] = offset
        return positions
