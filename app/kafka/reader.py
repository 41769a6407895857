"""Reading a topic from its beginning, without a group: for people who look, nothing is committed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from app.broker import connection_options
from app.errors import BrokerUnavailable
from app.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Record:
    """A message as it lies in Kafka."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None

    @property
    def message_id(self) -> str | None:
        """The identity by which a repeat is recognised: the header `ce_id`."""
        return next((value.decode("utf-8", "replace") for name, value in self.headers if name == "ce_id"), None)


async def read(
    settings: KafkaSettings,
    topics: Sequence[str],
    *,
    enough: Callable[[Sequence[Record]], bool],
    patience: timedelta,
) -> list[Record]:
    """All records of the topics, which exist, once they are `enough`; then on to their ends, so that repeats are seen.

    After `patience` those that came until then. Raises BrokerUnavailable when no broker answers.
    """
    # Without a group it is given all partitions at its start.
    consumer = AIOKafkaConsumer(
        *topics, **connection_options(settings), group_id=None, auto_offset_reset="earliest", fetch_max_wait_ms=10
    )
    found: list[Record] = []
    try:
        async with asyncio.timeout(patience.total_seconds()):
            await consumer.start()
            while not enough(found) or not await _at_end(consumer):
                batches = await consumer.getmany(timeout_ms=20)
                found += (
                    Record(each.topic, each.partition, each.offset, each.key, tuple(each.headers), each.value)
                    for batch in batches.values()
                    for each in batch
                )
    except TimeoutError:
        pass
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"no broker of {settings.kafka_bootstrap_servers} answers") from error
    finally:
        await consumer.stop()
    return found


async def _at_end(consumer: AIOKafkaConsumer) -> bool:
    ends = await consumer.end_offsets(consumer.assignment())
    return all([await consumer.position(partition) >= end for partition, end in ends.items()])
