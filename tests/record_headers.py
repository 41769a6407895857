"""What headers a message's record has, said once more, without the relay's encoder."""

from datetime import datetime, timedelta

from aiokafka.record.util import decode_varint

from relay.outcomes import OwedMessage


def record_headers(message: OwedMessage) -> list[tuple[str, bytes]]:
    """CloudEvents' own headers (1.0, Kafka's binary mode), then the message's, however these are stored."""
    written = datetime(1970, 1, 1) + timedelta(microseconds=message.created_at)  # noqa: DTZ001 - UTC, and unsaid
    parts = iter(_taken_apart(message.headers[0]) if len(message.headers) == 1 else message.headers)
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", message.message_id.encode()),
        ("ce_type", message.type.encode()),
        ("ce_time", f"{written.isoformat(timespec='microseconds')}Z".encode()),
        *((name.decode("utf-8", "replace"), value) for name, value in zip(parts, parts, strict=True)),
    ]


def _taken_apart(ready: bytes) -> list[bytes]:
    """The parts of headers that are stored as they stand in a record."""
    buffer = bytearray(ready)
    count, position = decode_varint(buffer, 0)
    parts = []
    for _ in range(2 * count):
        length, position = decode_varint(buffer, position)
        parts.append(ready[position : position + length])
        position += length
    assert position == len(ready)
    return parts
