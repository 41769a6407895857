"""The whole service in the test's own process, under load, and the verdict on it after whatever a test did to it.

Clients apply over HTTP and repeat with the same key until they know; others request users over Kafka, each twice.
"""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import asyncpg
import httpx2
from aiokafka import AIOKafkaProducer

from app import lifecycle
from app.audit import audit
from app.cli.verify import intakes_of
from app.settings import Settings
from tests.api import PROMPT, Api, api_on
from tests.consuming import Consuming, ce, consuming, kafka_settings, lag, producing, request_xml, user_xml
from tests.engine import empty
from tests.relaying import delivering, hurried, no_lost_errors
from tests.services.kafka import Kafka, Record
from tests.services.postgres_server import dsn
from tests.waiting import until

SOON = timedelta(seconds=6)
"""A refusal takes no longer. Promised are 3 s, which `test_http_outage` shows; here all share one event loop."""
HEALED = timedelta(seconds=120)
_PACE = 0.02  # seconds between two things that a client does
_CLIENTS = 3
_IDLE_IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND application_name <> 'outbox-relay'
"""


@dataclass
class Service:
    """API, consumer and relay at work, and what their clients know."""

    kafka: Kafka
    database_url: str
    """Straight to the database, whatever is between it and the service."""
    settings: Settings
    api: Api
    users: Consuming
    ids: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """What each key was answered with."""
    refused: list[httpx2.Response] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds that an answer took."""
    requested: int = 0
    clients: list[asyncio.Task[None]] = field(default_factory=list)

    async def goes_on(self, much: int = 20) -> None:
        """Wait until so many more applications are acknowledged, users stored, and replies delivered."""
        before, goal = await self._progress(), much

        async def all_three() -> bool:
            return all(now - then >= goal for now, then in zip(await self._progress(), before, strict=True))

        await until(all_three, HEALED)

    async def goes_on_without_the_api(self, much: int = 20) -> None:
        """The same without the applications."""
        _, users, replies = await self._progress()

        async def both() -> bool:
            _, stored, delivered = await self._progress()
            return stored - users >= much and delivered - replies >= much

        await until(both, HEALED)

    async def reconnect(self) -> None:
        """Let the test look again at a database that was restarted."""
        await self.users.connection.close(timeout=5)
        self.users.connection = await asyncpg.connect(dsn(self.database_url), timeout=30)

    async def refuses(self, much: int = 10) -> None:
        """Wait until so many more requests were refused."""
        before = len(self.refused)

        async def enough() -> bool:
            self.clients_go_on()
            return len(self.refused) - before >= much

        await until(enough, HEALED)

    def refused_soon(self) -> None:
        """Fail unless who got no 2xx was told so in time, and when to come again."""
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in self.refused)
        assert self.slowest < SOON.total_seconds()

    async def delivered(self, topic: str) -> int:
        """How many messages of this topic have receipts."""
        return int(
            await self.users.connection.fetchval(
                "SELECT count(DISTINCT message_id) FROM outbox_receipts WHERE topic = $1", topic
            )
        )

    def clients_go_on(self) -> None:
        """Fail the test with what a client has failed with."""
        for client in self.clients:
            if client.done():
                client.result()

    async def _progress(self) -> tuple[int, ...]:
        self.clients_go_on()
        stored = await self.users.connection.fetchval("SELECT count(*) FROM users")
        return len(self.ids), int(stored), await self.delivered(self.settings.users_responses_topic)

    async def judge(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, all of it reached Kafka, and nothing is left lying."""

        async def all_read() -> bool:
            return await lag(self.kafka, self.users) == 0

        await until(all_read, HEALED)
        await empty(self.database_url, HEALED)
        assert {key: len(ids) for key, ids in self.ids.items()} == dict.fromkeys(self.ids, 1)
        answered = sorted(number for ids in self.ids.values() for number in ids)
        stored = await self.users.connection.fetch("SELECT id FROM applications ORDER BY id")
        assert [row[0] for row in stored] == answered, "acknowledged applications are not those that are stored"
        told = await self._first(self.settings.applications_topic, len(answered))
        assert sorted(int(record.key or b"") for record in told) == answered

        users = await self.users.users()
        assert Counter(row["email"] for row in users) == Counter(_email(number) for number in range(self.requested))
        replies = await self._first(self.settings.users_responses_topic, self.requested)
        assert Counter(record.key for record in replies) == Counter(b"%d" % number for number in range(self.requested))
        report = await audit(self.users.settings, None, intakes=intakes_of(self.users.settings)[:1])
        assert report.ok, report.findings
        assert not report.standing.dead_letters, "a dead letter without a cause"
        await self._quiet()

    async def _quiet(self) -> None:
        """No connection is out, no transaction is open."""

        async def nothing_is_open() -> bool:
            pool: Any = self.api.engine.pool
            return not pool.checkedout() and not await self.users.connection.fetchval(_IDLE_IN_TRANSACTION)

        await until(nothing_is_open, HEALED)

    async def _first(self, topic: str, at_least: int) -> list[Record]:
        """Records without repeats."""
        found: dict[bytes | None, Record] = {}
        for record in await self.kafka.records(topic, at_least=at_least):
            found.setdefault(dict(record.headers)["ce_id"], record)
        return list(found.values())


@asynccontextmanager
async def service_on(
    kafka: Kafka, database_url: str, *, through: str | None = None, **overrides: Any
) -> AsyncIterator[Service]:
    """The service at work on this database, by way of `through`. At the end of the block the load ends, and it is
    judged.
    """
    given: dict[str, Any] = {
        "api_pool_size": 3,
        "consumer_database_deadline": 2.0,
        **await kafka_settings(kafka),
        "applications_topic": await kafka.create_topic(),
        "users_responses_topic": await kafka.create_topic(),
        "users_dead_letters_topic": await kafka.create_topic(),
        **overrides,
    }
    url = through or database_url
    servers = given.pop("kafka_bootstrap_servers")
    settings = hurried(url, servers, **given)
    async with (
        api_on(url, **PROMPT | given) as api,
        consuming(url, kafka_bootstrap_servers=servers, **given) as consumers,
        consuming(database_url, kafka_bootstrap_servers=servers, **given) as users,
        delivering(settings),
        AsyncExitStack() as stack,
    ):
        stack.enter_context(no_lost_errors())
        service = Service(kafka, database_url, settings, api, users)
        stop = asyncio.Event()
        consumer = consumers.consumer()
        consume = asyncio.create_task(lifecycle.supervise("users", lambda: consumer.run(stop), stop))
        producer = await stack.enter_async_context(producing(kafka))
        over = asyncio.Event()
        clients = service.clients
        clients += [asyncio.create_task(_apply(service, number, over)) for number in range(_CLIENTS)]
        clients.append(asyncio.create_task(_request(service, producer, over)))
        try:
            await service.goes_on()
            yield service
            over.set()
            await asyncio.wait_for(asyncio.gather(*clients), HEALED.total_seconds())
            await service.judge()
        finally:
            over.set()
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            stop.set()
            await asyncio.wait_for(consume, 30)
            await users.connection.close(timeout=5)  # which `reconnect` may have made


async def _apply(service: Service, name: int, over: asyncio.Event) -> None:
    """A client that never leaves a request without an answer."""
    clock = asyncio.get_running_loop().time
    for number in count():
        if over.is_set():
            return
        key = f"key-{os.getpid()}-{name}-{number}"
        while True:
            asked = clock()
            answer = await service.api.send(b'{"user_name": "Anna", "description": "d"}', **{"idempotency-key": key})
            service.slowest = max(service.slowest, clock() - asked)
            await asyncio.sleep(_PACE)
            if answer.status_code == httpx2.codes.CREATED:
                service.ids[key].add(answer.json()["id"])
                break
            service.refused.append(answer)
            assert answer.status_code in (httpx2.codes.CONFLICT, httpx2.codes.SERVICE_UNAVAILABLE), answer.text


async def _request(service: Service, producer: AIOKafkaProducer, over: asyncio.Event) -> None:
    """Each request twice, the copy on another partition."""
    for number in count():
        if over.is_set():
            return
        value = request_xml(user_xml(_email(number)))
        for copy in range(2):
            await producer.send_and_wait(
                service.settings.users_requests_topic,
                value,
                key=b"%d" % number,
                partition=(number + copy) % 3,
                headers=ce(str(number)),
            )
        service.requested = number + 1
        await asyncio.sleep(_PACE)


def _email(number: int) -> str:
    return f"{number}@example.com"
