"""Batches of records as no client library would write them, sent as they are."""

import struct
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition, codec
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import LeaderNotAvailableError, NoError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.services.kafka import Kafka

NOT_UTF8 = b"caf\xe9-bar"
_IN_ITS_PLACE = "cafe-bar"
_HEADER, _LENGTH, _CRC, _ATTRIBUTES = 61, 8, 17, 21

Record = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]


def flawed(value: bytes, *headers: tuple[str, bytes | None]) -> Record:
    """A record with a header whose name is not UTF-8, and these."""
    return b"flawed", value, [(_IN_ITS_PLACE, b"content"), *headers]


def batch(records: Sequence[Record], *, zstd: bool = False, crc: int | None = None, first_timestamp: int = 0) -> bytes:
    """A batch of version 2. A header of `flawed` gets its name; `crc` replaces the right checksum."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    first_timestamp = first_timestamp or round(time.time() * 1000)
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, first_timestamp + number, key, value, list(headers))
    raw = bytes(builder.build())
    content = raw[_HEADER:].replace(_IN_ITS_PLACE.encode(), NOT_UTF8)
    raw = raw[:_HEADER] + (codec.zstd_encode(content) if zstd else content)
    raw = raw[:_LENGTH] + struct.pack(">i", len(raw) - _LENGTH - 4) + raw[_LENGTH + 4 :]
    raw = raw[:_ATTRIBUTES] + struct.pack(">h", 4 if zstd else 0) + raw[_ATTRIBUTES + 2 :]
    checksum = calc_crc32c(raw[_ATTRIBUTES:]) if crc is None else crc
    return raw[:_CRC] + struct.pack(">I", checksum) + raw[_ATTRIBUTES:]


async def send_raw(kafka: Kafka, topic: str, partition: int, raw: bytes) -> None:
    """Append the batch to the partition's log."""
    client = AIOKafkaClient(bootstrap_servers=kafka.bootstrap_servers)
    await client.bootstrap()
    try:
        while (error := await _append(client, topic, partition, raw)).invalid_metadata:
            # A topic just made: its leader is not elected, or does not know yet that it leads. Nothing was appended.
            await client.set_topics([topic])
            await client.force_metadata_update()
        assert error is NoError, error
    finally:
        await client.close()


async def _append(client: AIOKafkaClient, topic: str, partition: int, raw: bytes) -> Any:
    """The class of error, or of none, that the leader answers with; one as well when the client knows of no leader."""
    leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    if leader in {None, -1}:
        return LeaderNotAvailableError
    answer: Any = await client.send(leader, ProduceRequest(None, -1, 10_000, [(topic, [(partition, raw)])]))
    ((_, ((_, code, *_),)),) = answer.topics
    return for_code(code)
