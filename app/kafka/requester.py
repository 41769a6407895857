"""Asking over Kafka: a request, and the reply that carries its correlation id. For people who try something out."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.broker import connection_options
from app.errors import BrokerUnavailable
from app.kafka.log import Log
from app.kafka.reader import PAUSE, Reader, Record
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
    producer = AIOKafkaProducer(**connection_options(settings), acks="all", enable_idempotence=True)
    try:
        async with asyncio.timeout(patience.total_seconds()), Log(settings) as log:
            partitions = await log.partitions(reply_topic)
            while not partitions:
                await asyncio.sleep(PAUSE.total_seconds())
                partitions = await log.partitions(reply_topic)
            # From the end as it is before the request: the reply comes after it.
            replies = await Reader.at(log, [reply_topic], end=True)
            await producer.start()
            await producer.send_and_wait(topic, value, key=key, headers=[*headers, (CORRELATION_ID, correlation_id)])
            while True:
                for each in await replies.more():
                    if (CORRELATION_ID, correlation_id) in each.headers:
                        return each
                await asyncio.sleep(PAUSE.total_seconds())
    except TimeoutError:
        return None
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(
            f"{settings.kafka_bootstrap_servers} does not take it ({type(error).__name__})"
        ) from error
    finally:
        await producer.stop()
