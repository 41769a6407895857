"""What a group of consumers has told Kafka, for somebody who is no member of it."""

from collections.abc import Sequence
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app import lifecycle
from app.broker import connection_options
from app.errors import BrokerUnavailable
from app.settings import KafkaSettings

_DEADLINE = timedelta(seconds=30)


async def committed(settings: KafkaSettings, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """The offsets that the group has committed, by partition; without those where it has committed none.

    Joins nothing and commits nothing. Raises BrokerUnavailable.
    """
    # Without a subscription it is no member.
    consumer = AIOKafkaConsumer(**connection_options(settings), group_id=group, enable_auto_commit=False)

    async def ask() -> dict[int, int]:
        await consumer.start()
        answers = {number: await consumer.committed(TopicPartition(topic, number)) for number in partitions}
        return {number: offset for number, offset in answers.items() if offset is not None}

    try:
        return await lifecycle.within(_DEADLINE, ask())
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no broker of {settings.kafka_bootstrap_servers} answers") from error
    finally:
        await consumer.stop()
