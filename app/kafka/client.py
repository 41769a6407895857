"""How consumers use the client library: its options, and its records in our words."""

from datetime import timedelta

from aiokafka import ConsumerRecord

from app.broker import connection_options
from app.kafka.input import Input
from app.settings import Settings

_REBALANCE = timedelta(seconds=20)
"""How long the members of a group have to give up what they hold. Joining may be answered only after that."""


def milliseconds(duration: timedelta) -> int:
    """A duration as aiokafka wants it."""
    return round(duration / timedelta(milliseconds=1))


def options(settings: Settings, group: str) -> dict[str, object]:
    """A member of `group` that commits only what it is told to, and skips nothing unasked."""
    return connection_options(settings) | {
        "group_id": group,
        "client_id": "outbox-worker",
        "request_timeout_ms": milliseconds(_REBALANCE + timedelta(seconds=5)),
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "session_timeout_ms": milliseconds(settings.consumer_session_timeout),
        "heartbeat_interval_ms": min(1000, milliseconds(settings.consumer_session_timeout / 6)),
        "rebalance_timeout_ms": milliseconds(_REBALANCE),
        "fetch_max_wait_ms": milliseconds(settings.consumer_fetch_wait),
        # A topic, or a partition, that was made meanwhile is seen after this long.
        "metadata_max_age_ms": 10_000,
        "check_crcs": settings.kafka_check_crcs,
    }


def to_input(record: ConsumerRecord) -> Input:
    """A record without the client's own types."""
    return Input(
        record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
    )
