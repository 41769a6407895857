"""Who sends over Kafka, and keeps on: requests for users and tasks, some of them twice, some of them wrong."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.chaos.history import Outcome
from tests.chaos.load_http import Load
from tests.consuming import request_xml, user_xml

_LIMIT = 8.0
_Headers = Sequence[tuple[str, bytes]]
SOURCE = b"/chaos"


class Sender:
    """A producer that is made anew after each failure; it sends a record until the brokers have it."""

    def __init__(self, load: Load, chance: random.Random) -> None:
        self._load = load
        self.chance = chance
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._give_up()

    async def insist(
        self, op_id: str, kind: str, topic: str, value: bytes, *, key: bytes | None, headers: _Headers = ()
    ) -> None:
        """To any partition: what is sent again may come by another way."""
        while True:
            began = time.time()
            outcome: Outcome = "info"
            place, note = None, None
            try:
                async with asyncio.timeout(_LIMIT):
                    producer = await self._ready()
                    partitions = sorted(await producer.partitions_for(topic))
                    sent = await producer.send_and_wait(
                        topic, value, key=key, partition=self.chance.choice(partitions), headers=list(headers)
                    )
                outcome, place = "ok", f"{topic}:{sent.partition}:{sent.offset}"
            except (KafkaError, OSError, TimeoutError) as error:
                note = type(error).__name__
                await self._give_up()
            self._load.history.tried(op_id, kind, value, began, outcome, id=place, note=note)
            if outcome == "ok":
                return
            await asyncio.sleep(self.chance.uniform(0.1, 0.5))

    async def _ready(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                bootstrap_servers=self._load.world.kafka.bootstrap_servers, acks="all", request_timeout_ms=5000
            )
            await self._producer.start()
        return self._producer

    async def _give_up(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await producer.stop()


async def users(load: Load, number: int) -> None:
    """Requests with an id of their own; repeats, ids used twice, known emails, and what is no XML."""
    chance = load.chance(f"users {number}")
    topic = load.world.settings.users_requests_topic
    sent: list[tuple[str, bytes, bytes, _Headers]] = []
    count = 0
    async with Sender(load, chance) as sender:
        while not load.stop.is_set():
            count += 1
            op_id, key = f"user-{number}-{count}", b"client %d" % chance.randrange(8)
            emails = [f"{load.canary}.{op_id}.{each}@example.com" for each in range(chance.choice((1, 1, 2)))]
            value = request_xml(*(user_xml(email, name=load.canary) for email in emails))
            headers: _Headers = [("ce_id", op_id.encode()), ("ce_source", SOURCE), ("correlation-id", op_id.encode())]
            kind, draw = "user", chance.random()
            if draw < 0.05:
                kind, value = "user-invalid", f"<{load.canary}".encode()
            elif draw < 0.12 and sent:
                op_id, _, key, headers = chance.choice(sent)
                kind = "user-reused"
            elif draw < 0.3 and sent:
                op_id, value, key, headers = chance.choice(sent)
                kind = "user-again"
            elif draw < 0.35 and sent:
                kind, value = "user-known", chance.choice(sent)[1]
            await sender.insist(op_id, kind, topic, value, key=key, headers=headers)
            if kind == "user":
                sent.append((op_id, value, key, headers))
            await asyncio.sleep(chance.uniform(0.2, 0.8))


def task_body(task_id: int, task_type: str, data: str) -> bytes:
    return json.dumps({"task_id": task_id, "task_type": task_type, "data": data}).encode()
