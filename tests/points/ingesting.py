"""A consumer meets a fault at a point of a batch. Its records come again, and nothing of it is done again."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition

from app import lifecycle
from app.worker import Worker
from tests.armed import child
from tests.consuming import Consuming, ce, consuming, kafka_settings, producing, request_xml, running, user_xml
from tests.failpoints import Action, Fault, Injected, armed
from tests.services.kafka import Kafka
from tests.waiting import until

REQUESTS = 8
PARTITIONS = 2
DEADLINE = 0.6
SECONDS = 1.0

# How the consumer finds its partitions: tidily left by the last reader, or not, so that each record is taken singly;
# or with a record that has ended too many readers already.
TIDY, UNTIDY, DEADLY = "tidy", "untidy", "deadly"
POINTS = {
    "ingest.after_fetch": TIDY,
    "ingest.after_take_over": TIDY,
    "ingest.after_attempt_row": UNTIDY,
    "ingest.in_parse": TIDY,
    "ingest.after_inbox_row": TIDY,
    "ingest.after_domain": TIDY,
    "ingest.before_commit": TIDY,
    "ingest.after_commit_before_offset": TIDY,
    "ingest.before_offset": TIDY,
    "ingest.after_offset": TIDY,
    "ingest.on_revoke": TIDY,
    "dlq.after_outbox_row": TIDY,
    "dlq.before_give_up": DEADLY,
    "shutdown.before_drain": TIDY,
}
_LEFT = "INSERT INTO inbox_assignments (consumer, topic, partition, owner) VALUES ($1, $2, $3, $4)"
_TRIED = 'INSERT INTO inbox_attempts (consumer, topic, partition, "offset", attempts) VALUES ($1, $2, 0, 0, $3)'
_groups = itertools.count()


@dataclass(frozen=True)
class Input:
    """Requests, the same again, and one that cannot be read: all in a topic, before anybody reads it."""

    kafka: Kafka
    users: Consuming
    state: str
    lies: dict[tuple[int, int], str]
    """The id of what lies in each partition at each offset."""

    async def judge(self) -> None:
        """Each request has one user and one reply, what is none is a dead letter, and Kafka knows that all is done."""
        users = self.users
        exhausted = self.state == DEADLY  # the very first record
        await self.all_done()
        emails = sorted(row["email"] for row in await users.users())
        assert emails == [f"{number}@example.com" for number in range(exhausted, REQUESTS)], (
            "effects are lost, or repeated"
        )
        replies = await users.replies()
        assert len(replies) == REQUESTS + 1, "one for each request, and one for what is none"
        letters = [letter.headers["dlq.reason"] for letter in await users.dead_letters()]
        assert sorted(letters) == [b"ATTEMPTS_EXHAUSTED"] * exhausted + [b"NOT_A_REQUEST"]
        assert len(await users.owed()) == len(replies) + len(letters)
        assert await self._remembered() == set(self.lies.values())
        assert not await users.connection.fetchval("SELECT count(*) FROM inbox_attempts")

    async def all_done(self) -> None:
        """Wait until the group has told Kafka that it has done everything."""
        await until(self._all_done, timedelta(seconds=60))

    async def not_ahead(self) -> None:
        """What the group has told Kafka that it has done, it has done."""
        committed = await self._committed()
        remembered = await self._remembered()
        for partition, offset in committed.items():
            done = {self.lies[partition, earlier] for earlier in range(offset)}
            assert done <= remembered, f"the offset {offset} of partition {partition} is ahead"

    async def _all_done(self) -> bool:
        await self.not_ahead()
        ends = {partition: 0 for partition, _ in self.lies}
        for partition, offset in self.lies:
            ends[partition] = max(ends[partition], offset + 1)
        return await self._committed() == ends

    async def _remembered(self) -> set[str]:
        rows = await self.users.connection.fetch("SELECT message_id FROM inbox_messages")
        return {row[0] for row in rows}

    async def _committed(self) -> dict[int, int]:
        group, topic = self.users.settings.users_group, self.users.settings.users_requests_topic
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap_servers, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            return {tp.partition: await consumer.committed(tp) or 0 for tp in partitions}
        finally:
            await consumer.stop()


@asynccontextmanager
async def lying(database_url: str, kafka: Kafka, state: str, **overrides: Any) -> AsyncIterator[Input]:
    settings = await kafka_settings(kafka, partitions=PARTITIONS)
    settings |= overrides | {
        "kafka_import_topic": await kafka.create_topic(partitions=1),
        "tasks_group": f"tasks-{os.getpid()}-{next(_groups)}",
    }
    async with consuming(database_url, **settings) as users:
        lies = await _send(kafka, users)
        loaded, topic = users.settings, users.settings.users_requests_topic
        if state != TIDY:
            for partition in range(PARTITIONS):
                await users.connection.execute(_LEFT, loaded.users_group, topic, partition, uuid4())
        if state == DEADLY:
            await users.connection.execute(_TRIED, loaded.users_group, topic, loaded.consumer_max_attempts)
        yield Input(kafka, users, state, lies)


async def _send(kafka: Kafka, users: Consuming) -> dict[tuple[int, int], str]:
    lies: dict[tuple[int, int], str] = {}
    async with producing(kafka) as producer:
        for number in (*range(REQUESTS), 3, -1):
            value = b"<nonsense" if number < 0 else request_xml(user_xml(f"{number}@example.com"))
            message_id = f"id-{number}"
            at = await producer.send_and_wait(
                users.settings.users_requests_topic, value, partition=number % PARTITIONS, headers=ce(message_id)
            )
            lies[at.partition, at.offset] = f"ce:/test {message_id}"
    return lies


def environment(users: Consuming) -> dict[str, Any]:
    """Settings for a worker of this input."""
    settings = users.settings
    assert settings.database_url is not None
    names = ("kafka_bootstrap_servers", "kafka_check_crcs", "users_requests_topic", "users_group", "tasks_group")
    return {name: getattr(settings, name) for name in (*names, "kafka_import_topic")} | {
        "database_url": settings.database_url.get_secret_value(),
        "consumer_session_timeout": settings.consumer_session_timeout.total_seconds(),
        "consumer_fetch_wait": 0.01,
        "worker_port": 0,
    }


async def die_at(point: str, database_url: str, kafka: Kafka) -> None:
    """A worker dies there; another one takes its partitions."""
    async with lying(database_url, kafka, POINTS[point]) as it:
        settings = environment(it.users)
        async with child("worker", fault=Fault(point, Action.EXIT), settings=settings) as dying:
            if point.startswith("shutdown."):
                await dying.stop_soon("worker.ready")
            await dying.dies()
        await it.not_ahead()
        async with child("worker", settings=settings) as heir:
            await heir.says("worker.ready")
            await it.judge()
            await heir.stop()


async def meet(fault: Fault, database_url: str, kafka: Kafka, *, judged: bool = True, **overrides: Any) -> None:
    """A consumer fails, is cancelled or late there, and is started again where that ended it.

    With `judged` false the caller judges what came of it, once all is done.
    """
    hasty: dict[str, Any] = {"consumer_stalled_after": 3} | overrides
    if fault.action is Action.SLEEP:  # a busy machine alone makes nothing late otherwise
        hasty |= {"consumer_database_deadline": DEADLINE}
    async with lying(database_url, kafka, POINTS[fault.point], **hasty) as it:
        with armed(fault) as arming:
            stop, consumer = asyncio.Event(), it.users.consumer()
            run = asyncio.create_task(lifecycle.supervise("users", lambda: consumer.run(stop), stop))
            try:
                await asyncio.wait_for(arming.struck.wait(), 60)
                await (it.judge() if judged else it.all_done())
            finally:
                stop.set()
                await asyncio.wait_for(run, 30)


async def meet_while_stopping(fault: Fault, database_url: str, kafka: Kafka) -> None:
    """The same for a worker that has been told to stop: it may end in any way, and the next one goes on."""
    async with lying(database_url, kafka, POINTS[fault.point]) as it:
        with armed(fault):
            stop = asyncio.Event()
            stop.set()
            with suppress(Injected, asyncio.CancelledError):
                await asyncio.wait_for(Worker(it.users.settings).run(stop), 30)
        async with running(it.users.consumer()):
            await it.judge()
