"""The corpus through the consumer: each document has the end it should, and the next good one is answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaProducer

from app.users.xml import is_valid
from tests import collector
from tests.consuming import Consuming, answered, consuming, kafka_settings, producing, request_xml, running, user_xml
from tests.corpus.cases import Case, load
from tests.services.kafka import Kafka

_LONGEST_TURN = 0.25  # seconds of CPU
_TRIES = 4
"""A busy machine makes a turn dearer now and then; a document that holds up the loop does so each time."""


@pytest.fixture
async def users(database_url: str, kafka: Kafka) -> AsyncIterator[Consuming]:
    settings = await kafka_settings(kafka, partitions=1)
    async with consuming(database_url, users_same_email="allow", **settings) as it:
        yield it


def _cases() -> list[Case]:
    """Without what no broker takes by default: it does not arrive."""
    return [case for case in load("xml") if len(case.document) < 900_000]


async def _produce(kafka: Kafka, users: Consuming, cases: Sequence[Case]) -> None:
    """The case with this number as its key, and a good request after it."""
    topic = users.settings.users_requests_topic
    async with producing(kafka) as producer:
        for number, case in enumerate(cases):
            await producer.send(topic, case.document, key=b"%d" % number)
            await producer.send(topic, request_xml(user_xml("good@example.com")), key=b"good after %d" % number)
        await producer.flush()


async def _longest_turn() -> float:
    """How much CPU the event loop spent at most before it came back, until cancelled. Not how late it was: that depends
    on who else uses the machine.
    """
    longest = 0.0
    try:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.01)
            longest = max(longest, time.thread_time() - before)
    except asyncio.CancelledError:
        return longest


async def test_the_corpus_of_xml(kafka: Kafka, users: Consuming) -> None:
    cases = _cases()
    refused = [case for case in cases if case.expect not in ("GOOD", "INVALID")]
    await _produce(kafka, users, cases)
    async with running(users.consumer()):
        await answered(users, 2 * len(cases) + len(refused))
    letters = {letter.key: letter for letter in await users.dead_letters()}
    replies = {reply.key: reply for reply in await users.replies()}
    assert len(letters) == len(refused)
    for number, case in enumerate(cases):
        reply, letter = replies[b"%d" % number], letters.get(b"%d" % number)
        assert b"SUCCESS" in (replies[b"good after %d" % number].payload or b""), case
        assert is_valid(reply.payload or b"", "response"), case
        code = reply.headers.get("error-code", b"GOOD").decode()
        assert code == case.expect, case
        assert (letter is None) == (case.expect in ("GOOD", "INVALID")), case
        if letter is not None:
            assert letter.headers["dlq.reason"].decode() == case.expect
            assert letter.payload == case.document


async def test_the_corpus_does_not_hold_up_the_event_loop(kafka: Kafka, users: Consuming) -> None:
    cases = _cases()
    ends = 2 * len(cases) + sum(case.expect not in ("GOOD", "INVALID") for case in cases)
    longest = []
    for number in range(1, _TRIES + 1):
        await _produce(kafka, users, cases)
        with collector.at_rest():  # it would look through what all tests before this one have left
            measuring = asyncio.create_task(_longest_turn())
            async with running(users.consumer()):
                await answered(users, number * ends)
            measuring.cancel()
            longest.append(await measuring)
        if longest[-1] < _LONGEST_TURN:
            return
    pytest.fail(f"the event loop was held up each time: {longest}")


async def _large_messages(kafka: Kafka) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_request_size=2_000_000)
    await producer.start()
    return producer


async def test_odd_records(kafka: Kafka, users: Consuming) -> None:
    topic = users.settings.users_requests_topic
    good = request_xml(user_xml())
    cap = users.settings.users_max_bytes
    padded = b" " * (cap - len(good)) + good
    now = int(time.time() * 1000)
    records: dict[bytes, tuple[bytes | None, list[tuple[str, bytes]], int, str]] = {
        b"null value": (None, [], now, "EMPTY"),
        b"empty value": (b"", [], now, "EMPTY"),
        b"at the cap": (padded, [], now, "GOOD"),
        b"above the cap": (b" " + padded, [], now, "TOO_LARGE"),
        b"33 headers": (good, [(f"h{n}", b"x") for n in range(33)], now, "GOOD"),
        b"headers twice": (good, [("message-id", b"1"), ("message-id", b"2")], now, "GOOD"),
        b"values not UTF-8": (good, [("correlation-id", b"\xff\xfe"), ("ce_id", b"\xff")], now, "GOOD"),
        b"large header": (good, [("big", b"x" * 500_000)], now, "GOOD"),
        b"content type": (good, [("content-type", b"application/json"), ("content-type", b"text/xml")], now, "GOOD"),
        b"forged": (good, [("x-retry-count", b"999"), ("dlq-reason", b"x"), ("dlq.topic", b"x")], now, "GOOD"),
        b"trace": (good, [("traceparent", b"\x00garbage")], now, "GOOD"),
        b"far future": (good, [], 2**52, "GOOD"),
        b"long ago": (good, [], now - int(timedelta(days=20).total_seconds() * 1000), "TOO_OLD"),
        b"k" * 100_000: (good, [], now, "GOOD"),
    }
    if kafka.real:
        del records[b"far future"]  # a real broker does not take it (message.timestamp.after.max.ms)
    producer = await _large_messages(kafka)
    try:
        for key, (value, headers, timestamp, _) in records.items():
            await producer.send_and_wait(topic, value, key=key, headers=headers, timestamp_ms=timestamp)
        await producer.send_and_wait(topic, good)
    finally:
        await producer.stop()
    dead = [end for *_, end in records.values() if end != "GOOD"]
    unanswered = dead.count("TOO_OLD")
    async with running(users.consumer()):
        await answered(users, len(records) + 1 + len(dead) - unanswered)
    codes = {reply.key: reply.headers.get("error-code", b"GOOD").decode() for reply in await users.replies()}
    for key, (*_, end) in records.items():
        if end != "TOO_OLD":
            assert codes[key if len(key) < 65_536 else None] == end, key
    assert sorted(letter.headers["dlq.reason"].decode() for letter in await users.dead_letters()) == sorted(dead)
