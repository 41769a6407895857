"""All that a run breaks: a PostgreSQL, a Kafka, the ways to them, the service's processes and the fakes."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url

from app.fakes import Fakes, serve
from app.fakes.script import Instructions
from app.kafka import topics
from app.settings import Settings, load
from tests.chaos import trail
from tests.chaos.processes import Child
from tests.services.brokers import OwnKafka
from tests.services.native_kafka import NativeKafka
from tests.services.ports import free_port
from tests.services.postgres import LocalPostgres
from tests.services.postgres_server import dsn
from tests.services.proxy import TcpProxy

ORDERS = "chaos.orders"
"""A topic for messages that are added in plain SQL."""
PARTITIONS = 6
_DISK = "768m"

# As in production, only sooner: what waits for a deadline is done while somebody watches.
SETTINGS: dict[str, object] = {
    "publish_deadline": 5,
    "kafka_request_timeout": 2,
    "relay_idle_timeout": 12,
    "relay_probe_min": 0.1,
    "relay_probe_max": 1,
    "relay_transaction_limit": 20,
    "relay_stalled_after": 20,
    "relay_watch_interval": 1,
    "relay_scan_interval": 5,
    "consumer_session_timeout": 6,
    "consumer_stalled_after": 15,
    "consumer_database_deadline": 5,
    "consumer_drain_deadline": 6,
    "dadata_rate": 0,
    "yandexgpt_rate": 0,
    "dadata_timeout": 2,
    "yandexgpt_timeout": 4,
    "dadata_attempts": 50,
    "yandexgpt_attempts": 50,
    "task_lease_margin": 3,
    "task_retry_min": 0.2,
    "task_retry_max": 2,
    "provider_pause_min": 0.2,
    "provider_pause_max": 2,
    "rate_limit_writes": 0,
    "rate_limit_reads": 0,
    "log_level": "info",
    "log_format": "json",
}


@dataclass
class World:
    """What there is, and how to reach it. Processes go through the proxies, the judge goes past them."""

    folder: Path
    settings: Settings
    """As the judge sees the services."""
    environment: dict[str, str]
    """As the processes see them."""
    postgres: LocalPostgres
    disk: Path | None
    """Where PostgreSQL has a file system of its own, which can be filled."""
    database_url: str
    kafka: OwnKafka
    fakes: Fakes
    ways_to_postgres: list[TcpProxy]
    ways_to_kafka: dict[int, TcpProxy]
    children: dict[str, Child]

    def of(self, command: str) -> list[Child]:
        return [child for child in self.children.values() if child.command == command]

    def through(self, child: Child | None = None) -> str:
        """The address of the database by way of a proxy."""
        proxy = self.ways_to_postgres[0] if child is None or child.proxy is None else child.proxy
        return proxy.through(self.database_url)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that no proxy is before."""
        connection = await asyncpg.connect(
            dsn(self.database_url), timeout=10, server_settings={"application_name": "chaos-judge"}
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


@asynccontextmanager
async def built(folder: Path, kafka_home: Path, brokers: int) -> AsyncIterator[World]:
    """All of it, started but for the processes of the service. At the end everything is gone but `folder`."""
    async with AsyncExitStack() as stack:
        disk = _own_disk(stack)
        postgres = LocalPostgres(
            # What is on the small disk must be mostly tables, not the log of writes ahead.
            {**trail.SETTINGS, "max_wal_size": "64MB", "min_wal_size": "32MB", "checkpoint_timeout": "60s"},
            folder=disk / "postgres" if disk else None,
        )
        stack.push_async_callback(postgres.remove)
        await postgres.start()
        database_url = await postgres.create_database(migrated=True)
        await trail.lay(database_url)

        ports = {number: free_port() for number in range(1, brokers + 1)}
        ways_to_kafka = {
            number: await stack.enter_async_context(TcpProxy("127.0.0.1", port)) for number, port in ports.items()
        }
        kafka = NativeKafka(
            kafka_home,
            brokers,
            advertised={number: (ports[number], way.port) for number, way in ways_to_kafka.items()},
        )
        stack.push_async_callback(kafka.remove)
        cluster = OwnKafka(kafka, brokers)
        await cluster.start()

        address = make_url(database_url)
        ways = [await stack.enter_async_context(TcpProxy(str(address.host), int(address.port or 0))) for _ in range(3)]
        fakes = Fakes()
        for script in (fakes.dadata, fakes.yandexgpt):
            script.follow(Instructions(delay=0.05))
            script.inputs = deque()  # all of them: the judge counts
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        await stack.enter_async_context(serve(fakes, listener))

        known: dict[str, Any] = SETTINGS | {
            "fakes_url": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "topic_partitions": PARTITIONS,
            "topic_replication_factor": min(3, brokers),
        }
        settings = load(
            _env_file=None, database_url=database_url, kafka_bootstrap_servers=cluster.bootstrap_servers, **known
        )
        await topics.ensure(settings, [*topics.ours(settings), ORDERS], patience=timedelta(seconds=60))
        environment = {name.upper(): str(value) for name, value in known.items()} | {
            "DATABASE_URL": ways[0].through(database_url),
            "KAFKA_BOOTSTRAP_SERVERS": ",".join(f"127.0.0.1:{way.port}" for way in ways_to_kafka.values()),
        }
        world = World(
            folder, settings, environment, postgres, disk, database_url, cluster, fakes, ways, ways_to_kafka, {}
        )
        for child in _children(world):
            world.children[child.name] = child
            stack.push_async_callback(child.kill)
        yield world


def _children(world: World) -> list[Child]:
    children = []
    for command in ("api", "relay", "worker"):
        for number in (1, 2):
            # A relay has a way of its own, so that its sessions can be told from the other's.
            way = world.ways_to_postgres[number] if command == "relay" else None
            environment = world.environment
            if way is not None:
                environment = environment | {"DATABASE_URL": way.through(world.database_url)}
            children.append(Child(f"{command}-{number}", command, environment, world.folder, way))
    return children


def _own_disk(stack: AsyncExitStack) -> Path | None:
    """A small file system in memory; None where that is not permitted."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="outbox-chaos-"))
    folder.chmod(0o755)
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        folder.rmdir()
        return None

    # Lazily: the last of its processes has ended, but may not be gone yet.
    stack.callback(folder.rmdir)
    stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], capture_output=True, check=False)
    return folder
