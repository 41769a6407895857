"""A consumer of users in the test's own process: requests in, and what became of them in PostgreSQL and Kafka."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import settings as app_settings
from app.db import create_engine
from app.kafka.batch import Batches, Handler
from app.kafka.consumer import Consumer
from app.kafka.input import Input
from app.settings import Settings
from app.users.consumer import UsersHandler
from tests.command import ROOT, process_environment
from tests.services.kafka import Kafka
from tests.services.postgres_server import dsn
from tests.services.proxy import TcpProxy
from tests.waiting import until

PARTITIONS = 3
"""Of the topic of requests."""
NAMESPACE = "urn://www.example.com"
_groups = itertools.count(1)


def user_xml(
    email: str | None = "ivan@example.com",
    name: str | None = "Иван",
    surname: str | None = "Иванов",
    birthday: str | None = "2005-10-23T04:00:00+03:00",
) -> str:
    """A User without the elements that are None; texts are taken as they are, markup included."""
    given = {"Name": name, "Surname": surname, "Email": email, "Birthday": birthday}
    elements = "".join(f"<ns2:{tag}>{text}</ns2:{tag}>" for tag, text in given.items() if text is not None)
    return f"<ns2:User>{elements}</ns2:User>"


def request_xml(*users: str) -> bytes:
    return f'<ns2:Request xmlns:ns2="{NAMESPACE}">{"".join(users)}</ns2:Request>'.encode()


def success_xml(*ids: int) -> bytes:
    users = "".join(f"<ns2:User><ns2:Id>{number}</ns2:Id><ns2:Status>SUCCESS</ns2:Status></ns2:User>" for number in ids)
    return f'<ns2:Response xmlns:ns2="{NAMESPACE}">{users}</ns2:Response>'.encode()


def record(
    value: bytes | None,
    *,
    offset: int = 0,
    partition: int = 0,
    key: bytes | None = b"key",
    timestamp: int = -1,
    **headers: bytes | None,
) -> Input:
    """An input as it could have come; `_` in the names of headers stands for `-`, unless they begin with `ce_`."""
    named = tuple((name if name.startswith("ce_") else name.replace("_", "-"), text) for name, text in headers.items())
    return Input("users.requests", partition, offset, timestamp, key, value, named)


@dataclass(frozen=True)
class Message:
    """A message that is owed."""

    topic: str
    key: bytes | None
    payload: bytes | None
    type: str
    headers: dict[str, bytes]


@dataclass
class Consuming:
    """What a test needs of a consumer's database."""

    settings: Settings
    sessions: async_sessionmaker[AsyncSession]
    connection: asyncpg.Connection
    commits: list[None] = field(default_factory=list)

    def batches(self, handler: Handler[Any] | None = None, **overrides: object) -> Batches[Any]:
        settings = self.settings.model_copy(update=overrides)
        return Batches(
            settings,
            handler or UsersHandler(settings),
            name=settings.users_group,
            dead_letters=settings.users_dead_letters_topic,
            sessions=self.sessions,
            on_commit=lambda: self.commits.append(None),
        )

    def consumer(self, handler: Handler[Any] | None = None, *, accept_gap: bool = False) -> Consumer[Any]:
        return Consumer(
            self.settings, self.batches(handler), topics=[self.settings.users_requests_topic], accept_gap=accept_gap
        )

    async def owed(self, topic: str | None = None) -> list[Message]:
        rows = await self.connection.fetch(
            "SELECT topic, key, payload, type, outbox_headers(headers) AS headers FROM outbox_messages ORDER BY id"
        )
        messages = [
            Message(
                row["topic"],
                row["key"],
                row["payload"],
                row["type"],
                {name.decode(): value for name, value in zip(row["headers"][::2], row["headers"][1::2], strict=True)},
            )
            for row in rows
        ]
        return [message for message in messages if topic in {None, message.topic}]

    async def replies(self) -> list[Message]:
        return await self.owed(self.settings.users_responses_topic)

    async def dead_letters(self) -> list[Message]:
        return await self.owed(self.settings.users_dead_letters_topic)

    async def users(self) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.connection.fetch("SELECT * FROM users ORDER BY id")
        return rows


@asynccontextmanager
async def consuming(
    database_url: str, *, through: TcpProxy | None = None, **overrides: object
) -> AsyncIterator[Consuming]:
    """A consumer's view of this database, by way of `through` for the consumer itself, with these settings."""
    if through is not None:
        overrides["database_url"] = through.through(database_url)
    settings = app_settings.load(_env_file=None, **{"database_url": database_url, **overrides})
    engine = create_engine(settings, role="worker", pool_size=4, deadline=settings.consumer_database_deadline)
    connection = await asyncpg.connect(dsn(database_url), timeout=30)
    try:
        yield Consuming(settings, async_sessionmaker(engine), connection)
    finally:
        await connection.close(timeout=5)
        await engine.dispose()


async def kafka_settings(kafka: Kafka, *, partitions: int = PARTITIONS) -> dict[str, Any]:
    """Settings for a consumer of a topic and a group of its own."""
    return {
        "kafka_bootstrap_servers": kafka.bootstrap_servers,
        "kafka_check_crcs": kafka.real,
        "consumer_session_timeout": 6.0 if kafka.real else 3.0,
        "consumer_fetch_wait": 0.01,
        "users_requests_topic": await kafka.create_topic(partitions=partitions),
        "users_group": f"users-{os.getpid()}-{next(_groups)}",
    }


def process_settings(users: Consuming, *, session: timedelta) -> dict[str, str]:
    """The environment of a process that consumes what `users` does; silent for `session`, it is out of the group."""
    settings = users.settings
    assert settings.database_url is not None
    return process_environment(
        DATABASE_URL=settings.database_url.get_secret_value(),
        KAFKA_BOOTSTRAP_SERVERS=settings.kafka_bootstrap_servers,
        KAFKA_CHECK_CRCS=str(settings.kafka_check_crcs),
        CONSUMER_SESSION_TIMEOUT=str(session.total_seconds()),
        CONSUMER_FETCH_WAIT="0.01",
        USERS_REQUESTS_TOPIC=settings.users_requests_topic,
        USERS_GROUP=settings.users_group,
        PYTHONPATH=str(ROOT),
    )


@asynccontextmanager
async def running(consumer: Consumer[Any]) -> AsyncIterator[asyncio.Task[None]]:
    """The consumer at work; told to stop at the end, which it must do in time."""
    stop = asyncio.Event()
    task = asyncio.create_task(consumer.run(stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task


@asynccontextmanager
async def producing(kafka: Kafka) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


Headers = Sequence[tuple[str, bytes]]


def ce(event_id: str) -> Headers:
    """Headers of a request with an id of its own."""
    return [("ce_id", event_id.encode()), ("ce_source", b"/test")]


async def send(kafka: Kafka, users: Consuming, numbers: Sequence[int], *, ids: bool = True) -> None:
    """A request for each number, spread over all partitions."""
    async with producing(kafka) as producer:
        for number in numbers:
            value = request_xml(user_xml(f"{number}@example.com"))
            headers = ce(str(number)) if ids else []
            await producer.send(users.settings.users_requests_topic, value, key=b"%d" % number, headers=headers)
        await producer.flush()


async def answered(users: Consuming, count: int) -> None:
    async def fact() -> bool:
        return len(await users.owed()) >= count

    await until(fact)
    assert len(await users.owed()) == count


async def lag(kafka: Kafka, users: Consuming) -> int:
    """How many records the group has not committed."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=users.settings.users_group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        topic = users.settings.users_requests_topic
        await consumer.topics()
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        ends = await consumer.end_offsets(partitions)
        committed = [await consumer.committed(tp) or 0 for tp in partitions]
        return sum(int(end) for end in ends.values()) - sum(int(offset) for offset in committed)
    finally:
        await consumer.stop()
