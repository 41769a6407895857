"""How long topics keep their records, against how long the inbox remembers them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from app import lifecycle, log
from app.broker import connection_options
from app.errors import ConfigurationError
from app.settings import KafkaSettings

logger = log.get(__name__)

_DEADLINE = timedelta(seconds=10)
_NAME, _VALUE = 0, 1  # of a row of the answer


async def check_retention(settings: KafkaSettings, topics: Sequence[str], remembered: timedelta) -> None:
    """Raise ConfigurationError when a topic keeps records for longer than they are `remembered`.

    A topic that keeps them for ever only gets a warning: what is too old is refused when it comes. So is a cluster
    that does not say.
    """
    try:
        kept = await lifecycle.within(_DEADLINE, _retention(settings, topics))
    except (KafkaError, OSError, TimeoutError, AttributeError) as error:  # the embedded Kafka has no controller to ask
        logger.info("retention.unknown", reason=type(error).__name__)
        return
    for topic, duration in kept.items():
        if duration is None:
            logger.warning("retention.endless", topic=topic, remembered_days=remembered.days)
        elif duration > remembered:
            raise ConfigurationError(
                f"INBOX_RETENTION: {topic} keeps records for {duration.days} days, the inbox remembers them for "
                f"{remembered.days}: raise it to more than {round(duration.total_seconds())}, or lower the topic's "
                "retention.ms"
            )


async def compacted(settings: KafkaSettings, topics: Sequence[str]) -> set[str]:
    """Those of the topics in which a newer record of a key replaces older ones; none when the cluster does not say."""
    try:
        configs = await lifecycle.within(_DEADLINE, _configs(settings, topics)) if topics else {}
    except (KafkaError, OSError, TimeoutError, AttributeError) as error:
        logger.info("compaction.unknown", reason=type(error).__name__)
        return set()
    return {
        topic
        for topic, rows in configs.items()
        if any(row[_NAME] == "cleanup.policy" and "compact" in row[_VALUE] for row in rows)
    }


async def _retention(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, timedelta | None]:
    return {topic: _duration(rows) for topic, rows in (await _configs(settings, topics)).items()}


async def _configs(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The settings of topics, as rows of name, value and more; without topics that do not exist."""
    admin = AIOKafkaAdminClient(**connection_options(settings), client_id="outbox-worker")
    try:
        await admin.start()
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        answers = await admin.describe_configs(wanted)
    finally:
        await admin.close()
    return {topic: rows for answer in answers for error, _, _, topic, rows in answer.resources if error == 0}


def _duration(rows: Sequence[Any]) -> timedelta | None:
    """None: for ever."""
    value = next((int(row[_VALUE]) for row in rows if row[_NAME] == "retention.ms"), -1)
    return None if value < 0 else timedelta(milliseconds=value)
