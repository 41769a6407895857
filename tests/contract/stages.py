"""Where a publisher plays: the real one before the run's Kafka, the one in memory before its broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from relay.outcomes import OwedMessage, Publisher
from relay.publisher import KafkaPublisher
from tests.engine import Broker
from tests.relaying import hurried, no_lost_errors
from tests.services.kafka import Kafka, MockKafka, Record

PARTITIONS = 4


class Stage(Protocol):
    """A publisher, and the Kafka behind it."""

    @property
    def publisher(self) -> Publisher: ...

    async def topic(self, *, largest: int | None = None) -> str:
        """A topic with PARTITIONS partitions that refuses messages larger than `largest` bytes."""

    def refuse(self, message: OwedMessage) -> None:
        """Make sure that the message is refused; a real Kafka needs no telling when it is too large."""

    def unavailable_topic(self) -> str:
        """A topic that takes nothing."""

    async def records(self, topic: str, *, at_least: int) -> list[Record]:
        """What the topic holds, by partition and offset."""

    def fall_silent(self) -> None:
        """From now on nothing is answered."""

    def speak_again(self) -> None: ...


class OnKafka:
    """The real publisher."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.publisher = KafkaPublisher(hurried("postgresql://nobody@127.0.0.1/nothing", kafka.bootstrap_servers))

    async def topic(self, *, largest: int | None = None) -> str:
        configs = {} if largest is None else {"max_message_bytes": str(largest)}
        return await self._kafka.create_topic(partitions=PARTITIONS, **configs)

    def refuse(self, message: OwedMessage) -> None:
        pass

    def unavailable_topic(self) -> str:
        return "there-is-no-such-topic"

    async def records(self, topic: str, *, at_least: int) -> list[Record]:
        return await self._kafka.records(topic, at_least=at_least)

    def fall_silent(self) -> None:
        assert isinstance(self._kafka, MockKafka)
        self._kafka.mock.set_down(1)

    def speak_again(self) -> None:
        assert isinstance(self._kafka, MockKafka)
        self._kafka.mock.set_up(1)


class InMemory:
    """The publisher that other tests use for want of a Kafka."""

    def __init__(self) -> None:
        self.broker = Broker(PARTITIONS)
        self.publisher = self.broker.publisher()
        self._topics: list[str] = []

    async def topic(self, *, largest: int | None = None) -> str:
        self._topics.append(f"topic-{len(self._topics)}")
        return self._topics[-1]

    def refuse(self, message: OwedMessage) -> None:
        assert message.payload is not None
        self.broker.poison.add(message.payload)

    def unavailable_topic(self) -> str:
        self.broker.unavailable.add("closed")
        return "closed"

    async def records(self, topic: str, *, at_least: int) -> list[Record]:
        records = [record for record in self.broker.records if record.topic == topic]
        assert len(records) >= at_least
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def fall_silent(self) -> None:
        for topic in self._topics:
            self.broker.gates[topic].clear()

    def speak_again(self) -> None:
        for gate in self.broker.gates.values():
            gate.set()


@asynccontextmanager
async def open_publisher(stage: Stage) -> AsyncIterator[Stage]:
    """The stage with its publisher open; closed at the end, and nothing may be left behind."""
    with no_lost_errors():
        await stage.publisher.open()
        try:
            yield stage
        finally:
            await stage.publisher.close()
