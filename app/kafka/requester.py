"""Asking over Kafka: a request, and the reply that carries its correlation id. For people who try something out."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from app.broker import connection_options
from app.errors import BrokerUnavailable
from app.kafka.reader import Record
from app.settings import KafkaSettings

CORRELATION_ID = "correlation-id"


async def ask(
    settings: KafkaSettings,
    topic: str,
    value: bytes,
    *,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    correlation_id: bytes,
    reply_topic: str,
    patience: timedelta,
) -> Record | None:
    """Send a request and wait for its reply; None when none came within `patience`.

    Raises BrokerUnavailable when no broker answers, or there is no such topic.
    """
    options = connection_options(settings)
    consumer = AIOKafkaConsumer(**options, group_id=None, fetch_max_wait_ms=10, check_crcs=settings.kafka_check_crcs)
    producer = AIOKafkaProducer(**options, acks="all", enable_idempotence=True)
    try:
        async with asyncio.timeout(patience.total_seconds()):
            await consumer.start()
            # From the end as it is before the request: the reply comes after it.
            await _assign_end(consumer, reply_topic)
            await producer.start()
            await producer.send_and_wait(topic, value, key=key, headers=[*headers, (CORRELATION_ID, correlation_id)])
            while True:
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    for each in batch:
                        if (CORRELATION_ID, correlation_id) in each.headers:
                            return Record(
                                each.topic, each.partition, each.offset, each.key, tuple(each.headers), each.value
                            )
    except TimeoutError:
        return None
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(
            f"{settings.kafka_bootstrap_servers} does not take it ({type(error).__name__})"
        ) from error
    finally:
        await consumer.stop()
        await producer.stop()


async def _assign_end(consumer: AIOKafkaConsumer, topic: str) -> None:
    consumer.subscribe([topic])
    while not (numbers := consumer.partitions_for_topic(topic)):
        await consumer.topics()  # asks the cluster anew
        await asyncio.sleep(0.05)
    consumer.unsubscribe()
    partitions = [TopicPartition(topic, number) for number in numbers]
    consumer.assign(partitions)
    for partition, end in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, end)
