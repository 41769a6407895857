"""Requests of users: a transaction for each batch against one for each request, and XML against JSON."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from aiokafka import AIOKafkaProducer
from pydantic import BaseModel, EmailStr, StringConstraints
from sqlalchemy.ext.asyncio import async_sessionmaker

from app.db import create_engine
from app.kafka.batch import Batches
from app.kafka.consumer import Consumer
from app.kafka.input import Input
from app.settings import Settings
from app.users import xml
from app.users.consumer import UsersHandler
from app.users.documents import Request
from app.users.validation import validate
from bench.options import Options
from bench.results import Goal, Measure, Table, ratios
from bench.services import PARTITIONS, Services

_REQUESTS = 50_000
_SINGLY = 2_500
"""Requests for the slower contender; a rate needs no more."""
_REQUEST = """\
<ns2:Request xmlns:ns2="urn://www.example.com">
<ns2:User>
<ns2:Name>Иван</ns2:Name>
<ns2:Surname>Иванов</ns2:Surname>
<ns2:Email>{email}</ns2:Email>
<ns2:Birthday>2005-10-23T04:00:00+03:00</ns2:Birthday>
</ns2:User>
</ns2:Request>
"""
_BATCH, _SINGLE = "one transaction a batch", "one transaction a request"
_EMPTY = "TRUNCATE users, inbox_messages, inbox_attempts, inbox_assignments, outbox_messages"


async def run(services: Services, options: Options) -> list[Table]:
    return [*[await _consuming(services, options, share) for share in (0, 30)], _decoding(options)]


async def _consuming(services: Services, options: Options, repeats: int) -> Table:
    """`repeats`: per cent of the records that repeat an earlier one."""
    contenders = {_BATCH: (500, _REQUESTS), _SINGLE: (1, _SINGLY)}
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(options.rounds):
        for name, (records, requests) in contenders.items():
            topic = await services.kafka.create_topic(partitions=PARTITIONS)
            distinct = await _send(services, topic, requests, repeats)
            settings = services.settings(
                users_requests_topic=topic,
                users_group=f"bench-{repeats}-{records}-{turn}",
                consumer_batch_records=records,
                kafka_check_crcs=services.kafka.real,
                consumer_session_timeout=10.0 if services.kafka.real else 3.0,
                consumer_fetch_wait=0.01,
            )
            rates[name].append(await _consume(settings, requests))
            await _check(services, distinct)
    ratio = ratios(rates[_BATCH], rates[_SINGLE])
    return Table(
        f"users ({repeats} % repeats)",
        f"{_REQUESTS:,} requests of the seed's shape ({_SINGLY:,} singly), all answered, each once",
        rows={name: {"requests/s": Measure(tuple(values))} for name, values in rates.items()},
        goals=[Goal("batch / single", ratio, floor=15)],
        notes=["25 is what we aim for."],
    )


async def _send(services: Services, topic: str, requests: int, repeats: int) -> int:
    """Write the requests; how many differ. A repeat is of one shortly before, as after a producer's retry."""
    producer = AIOKafkaProducer(bootstrap_servers=services.kafka.bootstrap_servers, linger_ms=5)
    await producer.start()
    distinct = 0
    try:
        for number in range(requests):
            if number == 0 or number % 100 >= repeats:
                distinct += 1
            value = _REQUEST.format(email=f"user.{distinct}@example.com").encode()
            headers = [("ce_id", b"%d" % distinct), ("ce_source", topic.encode())]
            await producer.send(topic, value, key=b"%d" % distinct, headers=headers)
        await producer.flush()
    finally:
        await producer.stop()
    return distinct


class _Timed(Batches[Request]):
    """Takes the time from the first record to the last commit."""

    started = ended = 0.0
    count = 0

    def expect(self, total: int) -> asyncio.Event:
        self.total, self.done = total, asyncio.Event()
        return self.done

    async def handle(self, records: Sequence[Input]) -> None:
        self.started = self.started or time.monotonic()
        await super().handle(records)
        self.count += len(records)
        if self.count >= self.total:
            self.ended = time.monotonic()
            self.done.set()


async def _consume(settings: Settings, requests: int) -> float:
    """Requests per second."""
    engine = create_engine(settings, role="worker", pool_size=4, deadline=settings.consumer_database_deadline)
    batches = _Timed(
        settings,
        UsersHandler(settings),
        name=settings.users_group,
        dead_letters=settings.users_dead_letters_topic,
        sessions=async_sessionmaker(engine),
    )
    stop, done = asyncio.Event(), batches.expect(requests)
    consuming = asyncio.create_task(Consumer(settings, batches, topics=[settings.users_requests_topic]).run(stop))
    waiting = asyncio.create_task(done.wait())
    await asyncio.wait({consuming, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    stop.set()
    await consuming
    await engine.dispose()
    return requests / (batches.ended - batches.started)


async def _check(services: Services, distinct: int) -> None:
    """Nothing is measured that is not right."""
    async with services.database() as connection:
        for table in ("users", "outbox_messages", "inbox_messages"):
            found = await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - a constant
            if found != distinct:
                raise RuntimeError(f"{found} rows in {table}, not {distinct}")
        await connection.execute(_EMPTY)


class _JsonUser(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    surname: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    email: EmailStr
    birthday: datetime


class _JsonRequest(BaseModel):
    users: list[_JsonUser]


def _decoding(options: Options) -> Table:
    """The same content, parsed and validated."""
    document = _REQUEST.format(email="ivan.ivanov.2023.2024@yandex.com").encode()
    user = {
        "name": "Иван",
        "surname": "Иванов",
        "email": "ivan.ivanov.2023.2024@yandex.com",
        "birthday": "2005-10-23T04:00:00+03:00",
    }
    body = json.dumps({"users": [user]}, ensure_ascii=False).encode()

    def from_xml() -> None:
        request = xml.parse(document, max_bytes=262_144)
        if not isinstance(request, Request):
            raise TypeError(request.reason)
        for given in request.users:
            validate(given)

    contenders: dict[str, Callable[[], object]] = {
        "XML": from_xml,
        "JSON through pydantic": lambda: _JsonRequest.model_validate_json(body),
    }
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(max(5, options.rounds)):
        for name, decode in contenders.items():
            started = time.perf_counter()
            for _ in range(2000):
                decode()
            times[name].append((time.perf_counter() - started) / 2000 * 1e6)
    ratio = ratios(times["XML"], times["JSON through pydantic"])
    return Table(
        "users: decoding",
        "One request of the seed, parsed and validated",
        rows={name: {"µs": Measure(tuple(values))} for name, values in times.items()},
        goals=[Goal("XML / JSON", ratio, ceiling=4)],
    )
