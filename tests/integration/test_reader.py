"""People who read a topic, or ask over Kafka, get past records that the client library cannot read."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from app.kafka.log import Log
from app.kafka.reader import read
from app.kafka.requester import CORRELATION_ID, ask
from app.settings import Settings, load
from tests.raw_batches import Record, batch, flawed, send_raw
from tests.services.kafka import Kafka
from tests.waiting import until

_PATIENCE = timedelta(seconds=60)
_SECRET = b"nobody else's business"


@pytest.fixture
def settings(kafka: Kafka) -> Settings:
    return load(_env_file=None, kafka_bootstrap_servers=kafka.bootstrap_servers, kafka_check_crcs=kafka.real)


def _good(number: int) -> Record:
    return b"key", b"%d" % number, [(CORRELATION_ID, b"%d" % number)]


async def test_a_record_with_another_name_than_utf8_is_told_of_and_left_out(kafka: Kafka, settings: Settings) -> None:
    topic = await kafka.create_topic(partitions=2)
    await send_raw(kafka, topic, 1, batch([_good(1), flawed(_SECRET), _good(2)]))
    await send_raw(kafka, topic, 1, batch([_good(3)]))
    with capture_logs() as logs:
        found = await read(settings, [topic], enough=lambda records: len(records) == 3, patience=_PATIENCE)
    assert [(each.partition, each.offset, each.value) for each in found] == [(1, 0, b"1"), (1, 2, b"2"), (1, 3, b"3")]
    assert logs == [
        {
            "event": "record.skipped",
            "log_level": "warning",
            "topic": topic,
            "partition": 1,
            "offset": 1,
            "reason": "HEADER_NOT_UTF8",
        }
    ]


async def test_after_its_patience_it_has_what_came(kafka: Kafka, settings: Settings) -> None:
    topic = await kafka.create_topic(partitions=1)
    await send_raw(kafka, topic, 0, batch([_good(1)]))
    found = await read(settings, [topic], enough=lambda _: False, patience=timedelta(seconds=5))
    assert [each.value for each in found] == [b"1"]


async def test_a_reply_behind_such_a_record_arrives(kafka: Kafka, settings: Settings) -> None:
    requests, replies = await kafka.create_topic(partitions=1), await kafka.create_topic(partitions=1)
    await send_raw(kafka, replies, 0, batch([_good(7), flawed(_SECRET)]))
    asking = asyncio.create_task(
        ask(
            settings,
            requests,
            b"request",
            key=None,
            headers=[],
            correlation_id=b"7",
            reply_topic=replies,
            patience=_PATIENCE,
        )
    )
    async with Log(settings) as log:

        async def asked() -> bool:
            return (await log.bounds(requests, 0)).end > 0

        await until(asked)
    await send_raw(kafka, replies, 0, batch([_good(6), flawed(_SECRET), _good(7)]))
    reply = await asking
    assert reply is not None
    assert (reply.offset, reply.value) == (4, b"7")
