"""Reads topics and prints, when its input is closed, at which moment (monotonic seconds) it got which key.

A process of its own, so that it waits for nobody; on one machine all processes share the monotonic clock.
"""

import asyncio
import json
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.settings import load
from bench.services import PARTITIONS

_WAIT = 10  # milliseconds; a real broker answers as soon as there is something, the embedded one only after this


async def _run(topic: str) -> None:
    settings = load(_env_file=None)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, enable_auto_commit=False, fetch_max_wait_ms=_WAIT
    )
    await consumer.start()
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)
    print(json.dumps("ready"), flush=True)
    asked = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    arrived: dict[str, float] = {}
    while not asked.done() or len(arrived) < json.loads(asked.result()):
        for records in (await consumer.getmany(timeout_ms=50)).values():
            now = time.monotonic()
            for record in records:
                arrived.setdefault(record.key.decode(), now)
    print(json.dumps(arrived), flush=True)
    await consumer.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(sys.argv[1]))
