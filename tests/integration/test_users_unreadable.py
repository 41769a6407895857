"""Records that the client library cannot read stop nobody: their partitions go on."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from app.errors import Unavailable
from tests.consuming import (
    PARTITIONS,
    Consuming,
    answered,
    ce,
    consuming,
    kafka_settings,
    lag,
    request_xml,
    running,
    send,
    user_xml,
)
from tests.raw_batches import Record, batch, flawed, send_raw
from tests.services.kafka import Kafka, MockKafka
from tests.waiting import until


@pytest.fixture
async def users(database_url: str, kafka: Kafka) -> AsyncIterator[Consuming]:
    async with consuming(database_url, **await kafka_settings(kafka), consumer_batch_records=50) as it:
        yield it


def _good(number: int) -> Record:
    return b"%d" % number, request_xml(user_xml(f"{number}@example.com")), ce(str(number))


@pytest.mark.parametrize("zstd", [False, True])
async def test_a_header_whose_name_is_not_utf8_makes_a_dead_letter(kafka: Kafka, users: Consuming, zstd: bool) -> None:
    topic = users.settings.users_requests_topic
    poison = request_xml(user_xml("poison@example.com"))
    sent = [_good(1), flawed(poison, ("correlation-id", b"c-1")), _good(2), flawed(b"<second"), _good(3)]
    await send_raw(kafka, topic, 0, batch(sent, zstd=zstd))
    await send(kafka, users, range(10, 130))  # more than one batch, over all partitions
    await send_raw(kafka, topic, 1, batch([flawed(poison)], zstd=zstd))
    async with running(users.consumer()) as consumer:
        await answered(users, 3 + 120 + 3 * 2)
        # It never left its group for that, and goes on in these partitions.
        await send(kafka, users, range(200, 220))
        await answered(users, 3 + 120 + 3 * 2 + 20)
        assert not consumer.done()

        async def told() -> bool:
            return await lag(kafka, users) == 0

        await until(told)
    letters = await users.dead_letters()
    assert [letter.headers["dlq.reason"] for letter in letters] == [b"HEADER_NOT_UTF8"] * 3
    first = next(letter for letter in letters if letter.headers["dlq.offset"] == b"1")
    assert (first.key, first.payload, first.headers["caf\\xe9-bar"]) == (b"flawed", poison, b"content")
    replies = await users.replies()
    refused = [reply for reply in replies if reply.headers.get("error-code") == b"HEADER_NOT_UTF8"]
    assert len(refused) == 3
    assert b"c-1" in [reply.headers["correlation-id"] for reply in refused]
    assert len(await users.users()) == 3 + 120 + 20
    for partition in range(PARTITIONS):
        good = [
            int(reply.headers["source-offset"])
            for reply in replies
            if reply not in refused and reply.headers["source-partition"] == b"%d" % partition
        ]
        assert good == sorted(good)
    failures = {"consumer": users.settings.users_group, "reason": "unreadable"}
    assert (REGISTRY.get_sample_value("consumer_failures_total", failures) or 0) > 0


async def test_nothing_but_unreadable_ones(kafka: Kafka, users: Consuming) -> None:
    many = [flawed(b"<%d" % number, *ce(str(number))) for number in range(70)]
    await send_raw(kafka, users.settings.users_requests_topic, 2, batch(many))
    for _ in range(2):
        async with running(users.consumer()):
            await answered(users, 140)
    assert [letter.payload for letter in await users.dead_letters()] == [b"<%d" % number for number in range(70)]


async def test_a_corrupt_batch_is_an_alarm_until_accepted(database_url: str) -> None:
    """No broker takes one, so it can only become so on a disk: what it was is not known, nor how many."""
    mock = MockKafka()
    try:
        settings = await kafka_settings(mock) | {"kafka_check_crcs": True}
        async with consuming(database_url, **settings) as users:
            await _corrupt_among_good_ones(mock, users)
    finally:
        mock.close()


async def _corrupt_among_good_ones(kafka: Kafka, users: Consuming) -> None:
    topic = users.settings.users_requests_topic
    await send_raw(kafka, topic, 0, batch([_good(1), flawed(b"<")]))
    await send_raw(kafka, topic, 0, batch([_good(2), _good(3)], crc=1))
    await send_raw(kafka, topic, 0, batch([flawed(b"<"), _good(4)]))
    await send_raw(kafka, topic, 1, batch([_good(5)]))
    labels = {"consumer": users.settings.users_group, "topic": topic, "partition": "0"}
    consumer = users.consumer()
    async with running(consumer):
        await answered(users, 4)

        async def alarmed() -> bool:
            return REGISTRY.get_sample_value("consumer_gap", labels) == 1

        await until(alarmed)
        with pytest.raises(Unavailable, match=f"{topic}-0.*corrupt.*--accept-gap"):
            await consumer.check()
        await send_raw(kafka, topic, 1, batch([_good(6)]))
        await answered(users, 5)
    async with running(users.consumer(accept_gap=True)):
        await answered(users, 5 + 3)
        await send_raw(kafka, topic, 0, batch([_good(7)]))
        await answered(users, 5 + 3 + 1)
    assert {row["email"] for row in await users.users()} == {f"{number}@example.com" for number in (1, 4, 5, 6, 7)}
