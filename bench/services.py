"""PostgreSQL and Kafka for the time of a run, and what a run was made on."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.embedded import EmbeddedPostgres
from app.settings import Settings, load
from bench import processes
from tests.services.brokers import OwnKafka
from tests.services.kafka import Kafka, MockKafka
from tests.services.native_kafka import NativeKafka
from tests.services.postgres_server import PostgresServer, dsn

PARTITIONS = 6
_PACKAGES = ("aiokafka", "asyncpg", "uvloop", "cramjam")


@dataclass(frozen=True, slots=True)
class Services:
    """Where to measure: a migrated database of its own, and a Kafka. `kafka_pids` is empty for the embedded one."""

    database_url: str
    postgres_pid: int
    kafka: Kafka
    kafka_pids: tuple[int, ...]
    kafka_name: str

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a child process: these services and these settings."""
        return {
            "DATABASE_URL": self.database_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "LOG_LEVEL": "warning",
            **{name.upper(): str(value) for name, value in settings.items()},
        }

    def settings(self, **overrides: object) -> Settings:
        return load(
            _env_file=None,
            database_url=self.database_url,
            kafka_bootstrap_servers=self.kafka.bootstrap_servers,
            **overrides,
        )

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the bench's own, as superuser."""
        connection = await asyncpg.connect(dsn(self.database_url), server_settings={"application_name": "bench"})
        try:
            yield connection
        finally:
            await connection.close()

    def postgres_cpu(self) -> float:
        """CPU seconds of PostgreSQL so far."""
        return processes.cpu_seconds(processes.family(self.postgres_pid))

    def kafka_cpu(self) -> float:
        """CPU seconds of Kafka so far."""
        return processes.cpu_seconds(self.kafka_pids)

    async def records(self, topic: str) -> int:
        """How many records the topic has: nothing is measured that did not arrive."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap_servers)
        await consumer.start()
        try:
            ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
        finally:
            await consumer.stop()
        return sum(ends.values())

    async def describe(self) -> dict[str, object]:
        """What the numbers depend on."""
        async with self.database() as connection:
            postgres = str(await connection.fetchval("SHOW server_version"))
            durable = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
        return {
            "cores": os.cpu_count(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "postgres": postgres,
            **durable,
            "kafka": self.kafka_name,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }


@asynccontextmanager
async def started() -> AsyncIterator[Services]:
    """A durable PostgreSQL out of its wheel; Apache Kafka if KAFKA_HOME and Java are there, else the embedded one."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="outbox-bench-"))
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder), settings={"max_connections": "100"}))
        database_url = await PostgresServer(postgres.url()).create_database(migrated=True)
        home = os.environ.get("KAFKA_HOME")
        if home and shutil.which("java"):
            brokers = NativeKafka(Path(home), java={})
            stack.push_async_callback(brokers.remove)
            cluster = OwnKafka(brokers, 1)
            await cluster.start()
            pids = tuple(brokers.pids.values())
            yield Services(database_url, postgres.pid, cluster, pids, _distribution(Path(home)))
        else:
            mock = MockKafka()
            stack.callback(mock.close)
            yield Services(database_url, postgres.pid, mock, (), "embedded (librdkafka's mock cluster, in memory)")


def _distribution(home: Path) -> str:
    names = sorted(path.stem for path in (home / "libs").glob("kafka-clients-*.jar"))
    return f"Apache Kafka {names[0].removeprefix('kafka-clients-') if names else '(version unknown)'}, one broker"
