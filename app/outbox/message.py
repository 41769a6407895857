"""What a domain hands to the outbox."""

import os
import time
from dataclasses import dataclass, field
from uuid import UUID


def new_message_id() -> UUID:
    """A UUIDv7 (RFC 9562): the milliseconds of now, then 74 random bits, unique whatever the clock says."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant of RFC 9562
    return UUID(int=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message that is owed to Kafka once the caller's transaction commits.

    `payload` is final: the relay sends these bytes as they are; None is a tombstone. Messages of one (topic, key)
    arrive in the order of their commits; without a key no order is promised. `headers` travel as they are. The relay
    adds the CloudEvents headers `ce_specversion`, `ce_id` (the message id), `ce_type` (`type`) and `ce_time` (when the
    row was written); `ce_source` and the rest of the envelope are the writer's. `traceparent` is the trace context of
    the request that caused it; None: that of the work in hand when it is added.
    """

    topic: str
    key: bytes | None
    payload: bytes | None
    type: str
    headers: tuple[tuple[str, bytes], ...] = ()
    message_id: UUID = field(default_factory=new_message_id)
    traceparent: str | None = None


def event(
    *,
    topic: str,
    key: str,
    type: str,  # noqa: A002 - the word of CloudEvents
    source: str,
    data: bytes,
    content_type: str = "application/json",
    traceparent: str | None = None,
) -> OutboxMessage:
    """A message that carries a CloudEvents 1.0 event in Kafka's binary mode; its subject is its key."""
    return OutboxMessage(
        topic=topic,
        key=key.encode(),
        payload=data,
        type=type,
        headers=(
            ("content-type", content_type.encode()),
            ("ce_source", source.encode()),
            ("ce_subject", key.encode()),
        ),
        traceparent=traceparent,
    )
