"""The topics in Kafka: which are ours, and making those that are missing."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    KafkaError,
    LeaderNotAvailableError,
    NotControllerError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    for_code,
)

from app.broker import connection_options
from app.errors import BrokerUnavailable, ConfigurationError, OutboxError
from app.settings import KafkaSettings, Settings

_PAUSE = timedelta(seconds=0.2)

# Another answer may come: the topic is there after all, or the cluster is still sorting itself out.
_PASSING = (TopicAlreadyExistsError, NotControllerError, RequestTimedOutError, LeaderNotAvailableError)
# Of three replicas one may be away; with fewer, losing one must not stop the topic.
_REPLICAS_FOR_SAFETY = 3


@dataclass(frozen=True, slots=True)
class Created:
    """A topic that was missing."""

    topic: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic that was there, and was left as it is; `wanted` is what TOPIC_PARTITIONS says."""

    topic: str
    partitions: int
    wanted: int

    @property
    def differs(self) -> bool:
        """More partitions would send keys elsewhere and break their order, so nobody adds any in passing."""
        return self.partitions != self.wanted


Ensured: TypeAlias = Created | Existing


def ours(settings: Settings) -> tuple[str, ...]:
    """The topics that this service writes to or reads."""
    return (
        settings.applications_topic,
        settings.users_requests_topic,
        settings.users_responses_topic,
        settings.users_dead_letters_topic,
        settings.kafka_import_topic,
        settings.kafka_import_dead_letters_topic,
        settings.kafka_result_topic,
        settings.kafka_error_topic,
    )


async def ensure(settings: KafkaSettings, topics: Iterable[str], *, patience: timedelta) -> list[Ensured]:
    """Make the topics that are missing and wait until each has leaders; safe to repeat.

    Raises BrokerUnavailable when no broker answers within `patience`, ConfigurationError when the cluster cannot
    have such topics, and OutboxError with Kafka's name of any other refusal.
    """
    names = sorted(set(topics))
    deadline = time.monotonic() + patience.total_seconds()
    created: set[str] = set()
    while True:
        with suppress(TimeoutError, OSError, KafkaError):
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())), _admin(settings) as admin:
                there = await _partitions(admin)
                missing = [name for name in names if name not in there]
                if not missing:
                    return [_state(name, there[name], name in created, settings) for name in names]
                created |= await _create(admin, missing, settings)
        if time.monotonic() >= deadline:
            raise BrokerUnavailable(
                f"the topics could not be ensured on {settings.kafka_bootstrap_servers} within "
                f"{patience.total_seconds():g} s: is Kafka there, and does it accept the login?"
            )
        await asyncio.sleep(_PAUSE.total_seconds())


def _state(name: str, partitions: int, created: bool, settings: KafkaSettings) -> Ensured:  # noqa: FBT001
    return Created(name, partitions) if created else Existing(name, partitions, wanted=settings.topic_partitions)


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection_options(settings), client_id="outbox-topics")
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """The topics that are ready, with their number of partitions.

    All are asked for: asking by name makes a missing topic, where the brokers allow that.
    """
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in await admin.describe_topics()
        if topic["error_code"] == 0 and not any(each["error_code"] for each in topic["partitions"])
    }


async def _create(admin: AIOKafkaAdminClient, names: Sequence[str], settings: KafkaSettings) -> set[str]:
    """Ask for these topics; which of them were made by this. aiokafka raises nothing: the answer says how it went."""
    replicas = settings.topic_replication_factor
    configs = {"min.insync.replicas": str(replicas - 1)} if replicas >= _REPLICAS_FOR_SAFETY else {}
    answer = await admin.create_topics(
        [NewTopic(name, settings.topic_partitions, replicas, topic_configs=configs) for name in names]
    )
    made = set()
    for name, code, *_ in answer.topic_errors:
        error = for_code(code)
        if code == 0:
            made.add(name)
        elif issubclass(error, InvalidReplicationFactorError):
            raise ConfigurationError(f"TOPIC_REPLICATION_FACTOR: there are fewer than {replicas} brokers")
        elif issubclass(error, InvalidPartitionsError):
            raise ConfigurationError(f"TOPIC_PARTITIONS: Kafka does not take {settings.topic_partitions}")
        elif not issubclass(error, _PASSING):
            raise OutboxError(f"Kafka refuses to make topic {name}: {error.__name__} ({code})")
    return made
