"""`outbox worker` as a process: requests that end it, and telling it to stop."""

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.command import ROOT
from tests.consuming import (
    Consuming,
    consuming,
    kafka_settings,
    process_settings,
    producing,
    request_xml,
    send,
    user_xml,
)
from tests.services.kafka import Kafka
from tests.waiting import until

# A worker whose parser ends or stops the process at some names, as a fault in a C library would.
_WORKER = """
import os, sys, time
from app.users import xml
parse = xml.parse
def fragile(document, **options):
    if b"kills" in document:
        os._exit(11)
    if b"hangs" in document:
        time.sleep(3600)
    return parse(document, **options)
xml.parse = fragile
from app.cli import main
main(["worker", "--port", "0"])
"""


@pytest.fixture
async def users(database_url: str, kafka: Kafka) -> AsyncIterator[Consuming]:
    async with consuming(database_url, **await kafka_settings(kafka, partitions=2)) as it:
        yield it


async def _start(users: Consuming, **overrides: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WORKER),
        env=process_settings(users, session=timedelta(seconds=3)) | overrides,
        cwd=ROOT,
        stdout=DEVNULL,
        stderr=PIPE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kills", "hangs"])
async def test_what_ends_the_process_is_a_dead_letter_and_its_partition_goes_on(
    kafka: Kafka, users: Consuming, name: str
) -> None:
    async with producing(kafka) as producer:
        topic = users.settings.users_requests_topic
        for number in range(10):
            value = request_xml(user_xml(f"{number}@example.com", name=name if number == 3 else "Иван"))
            await producer.send_and_wait(topic, value, key=b"%d" % number, partition=0)
    await send(kafka, users, range(10, 20))
    ends: list[int] = []
    # Seconds: short where a hang is waited for four times, and out of the way where none is.
    hang_limit = "5" if name == "hangs" else "30"
    process = await _start(users, CONSUMER_HANG_LIMIT=hang_limit)

    async def done() -> bool:
        nonlocal process
        if process.returncode is not None:
            ends.append(process.returncode)
            process = await _start(users, CONSUMER_HANG_LIMIT=hang_limit)
        return len(await users.owed()) >= 21

    try:
        async with asyncio.timeout(120):
            await until(done, users.settings.consumer_hang_limit * 4)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # Once among others, then as often as is allowed; the group may be given to nobody for a while in between.
    assert len(ends) == users.settings.consumer_max_attempts + 1
    assert set(ends) == {11 if name == "kills" else 1}
    (letter,) = await users.dead_letters()
    assert (letter.key, letter.headers["dlq.reason"]) == (b"3", b"ATTEMPTS_EXHAUSTED")
    assert len(await users.users()) == 19
