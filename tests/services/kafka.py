"""Kafka as tests see it: topics of their own, and what arrived in them."""

import asyncio
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from app.embedded import EmbeddedKafka

Record: TypeAlias = "ConsumerRecord[bytes | None, bytes | None]"

_POLL_INTERVAL = timedelta(milliseconds=20)
_DEADLINE = timedelta(seconds=30)

_names = itertools.count(1)


class Kafka(ABC):
    """A cluster that answers at `bootstrap_servers`; `real` unless it is the mock."""

    real: bool
    bootstrap_servers: str

    async def create_topic(self, name: str | None = None, *, partitions: int = 4, **configs: str) -> str:
        """A new topic, ready to be written to; its name. Settings are written with `_` for `.`."""
        name = name or f"test-{os.getpid()}-{next(_names)}"
        await self._create_topic(name, partitions, {key.replace("_", "."): value for key, value in configs.items()})
        return name

    @abstractmethod
    async def _create_topic(self, name: str, partitions: int, configs: dict[str, str]) -> None: ...

    async def records(self, topic: str, *, at_least: int, timeout: timedelta = _DEADLINE) -> list[Record]:
        """All records of the topic from the beginning, by partition and offset.

        Waits until there are `at_least` so many, then reads on to the end, so that a repeat is seen too.
        Without a group: nothing is committed, and other consumers are not disturbed. Aborted records are left
        out, where the cluster is real. Fails the test when fewer have come after `timeout`.
        """
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap_servers,
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_max_wait_ms=20,
            # The mock does not wake a waiting fetch, and its control records have no checksum.
            check_crcs=self.real,
        )
        await consumer.start()
        try:
            return await _read(consumer, topic, at_least, time.monotonic() + timeout.total_seconds())
        finally:
            await consumer.stop()


class MockKafka(Kafka):
    """librdkafka's mock cluster; `mock` puts faults into it."""

    real = False

    def __init__(self, brokers: int = 1) -> None:
        self.mock = EmbeddedKafka(brokers)
        self.bootstrap_servers = self.mock.bootstrap_servers

    async def _create_topic(self, name: str, partitions: int, configs: dict[str, str]) -> None:
        if configs:
            raise NotImplementedError(f"the mock knows no settings of topics: mark the test real_kafka ({configs})")
        self.mock.create_topic(name, partitions)

    def close(self) -> None:
        self.mock.close()


class RealKafka(Kafka):
    """Apache Kafka, wherever it runs."""

    real = True

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """A client for administration, closed afterwards."""
        client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers, request_timeout_ms=15_000)
        try:
            await client.start()
            yield client
        finally:
            await client.close()

    async def delete_topic(self, name: str) -> None:
        async with self.admin() as admin:
            response = await admin.delete_topics([name])
            _check(response.topic_error_codes[0][1], name)

    async def wait_until_ready(self, brokers: int, timeout: timedelta = timedelta(seconds=60)) -> None:
        """Wait until so many brokers serve clients."""
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            seen: object = None
            # The client writes an error to the log for each address that does not answer.
            if await _listening(self.bootstrap_servers) >= brokers:
                try:
                    async with self.admin() as admin:
                        cluster = await asyncio.wait_for(admin.describe_cluster(), 5)
                        seen = [broker["node_id"] for broker in cluster["brokers"]]
                        if len(cluster["brokers"]) >= brokers:
                            return
                except (KafkaError, OSError, TimeoutError) as error:
                    seen = error
            if time.monotonic() > deadline:
                raise AssertionError(f"{brokers} brokers expected after {timeout}, seen: {seen!r}")
            await asyncio.sleep(_POLL_INTERVAL.total_seconds())

    async def _create_topic(self, name: str, partitions: int, configs: dict[str, str]) -> None:
        async with self.admin() as admin:
            brokers = len(admin._client.cluster.brokers())  # asked for, it comes with all topics there are
            topic = NewTopic(name, partitions, min(3, brokers), topic_configs=configs)
            response = await admin.create_topics([topic], timeout_ms=15_000)
            _check(response.topic_errors[0][1], name)
            deadline = time.monotonic() + _DEADLINE.total_seconds()
            while not await _has_leaders(admin, name, partitions):
                assert time.monotonic() < deadline, f"topic {name} has no leaders"
                await asyncio.sleep(_POLL_INTERVAL.total_seconds())


async def _listening(bootstrap_servers: str) -> int:
    """How many of the addresses accept connections."""
    count = 0
    for address in bootstrap_servers.split(","):
        host, _, port = address.rpartition(":")
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()
            count += 1
    return count


async def _has_leaders(admin: AIOKafkaAdminClient, name: str, partitions: int) -> bool:
    description = (await admin.describe_topics([name]))[0]
    return (
        description["error_code"] == 0
        and len(description["partitions"]) == partitions
        and all(partition["error_code"] == 0 for partition in description["partitions"])
    )


async def _read(consumer: AIOKafkaConsumer, topic: str, at_least: int, deadline: float) -> list[Record]:
    partitions = await _partitions(consumer, topic, deadline)
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    found: list[Record] = []
    while True:
        batches = await consumer.getmany(timeout_ms=50)
        found.extend(record for batch in batches.values() for record in batch)
        if len(found) >= at_least and not batches:
            ends = await consumer.end_offsets(partitions)
            # Positions, not the last records: transaction markers and compaction leave gaps.
            if all([await consumer.position(partition) >= end for partition, end in ends.items()]):
                return sorted(found, key=lambda record: (record.partition, record.offset))
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(found)} records in {topic}, at least {at_least} were expected")


async def _partitions(consumer: AIOKafkaConsumer, topic: str, deadline: float) -> list[TopicPartition]:
    consumer.subscribe([topic])
    while not (numbers := consumer.partitions_for_topic(topic)):
        assert time.monotonic() < deadline, f"there is no topic {topic}"
        await consumer._client.force_metadata_update()  # of this topic; a public method asks for all of them
        await asyncio.sleep(_POLL_INTERVAL.total_seconds())
    consumer.unsubscribe()
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def _check(error_code: int, topic: str) -> None:
    if error_code:
        raise AssertionError(f"topic {topic}: {for_code(error_code).__name__}")
