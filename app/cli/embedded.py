"""The whole service in one process: embedded PostgreSQL and Kafka, the API and the relay."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import running
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from app.settings import Settings


def listen(host: str, port: int) -> socket.socket:
    """Where the API will be, found out before anything is started. Raises ConfigurationError with the way out."""
    from app.api import server

    try:
        return server.listen(host, port)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; `--port 0` takes a free one") from error


@contextmanager
def services(
    data_dir: Path, topics: Mapping[str, int], *, fresh: bool = False, durable: bool = True, **overrides: object
) -> Iterator["Settings"]:
    """Run PostgreSQL on `data_dir` and a Kafka with these topics (and numbers of partitions); settings for them.

    Raises EmbeddedServiceError with the way out.
    """
    from app.embedded import EmbeddedKafka, EmbeddedPostgres

    postgres = EmbeddedPostgres(data_dir, durable=durable)
    with ThreadPoolExecutor(2) as threads:
        starting = threads.submit(postgres.start, fresh=fresh)
        # Takes about as long as PostgreSQL does. Not in this thread, whose matter Ctrl-C is: a library may catch
        # whatever is raised while it is imported, and the Ctrl-C would be lost.
        importing = threads.submit(import_all)
        try:
            starting.result()
            importing.result()
        except BaseException:
            starting.exception()  # wait for it: what is half started cannot be stopped
            postgres.stop()
            raise
    try:
        with EmbeddedKafka() as kafka:
            for topic, partitions in topics.items():
                kafka.create_topic(topic, partitions)
            yield running.settings(
                **overrides,
                database_url=postgres.url(),
                kafka_bootstrap_servers=kafka.bootstrap_servers,
                kafka_security_protocol="PLAINTEXT",
                kafka_check_crcs=False,  # its control records have none
                consumer_fetch_wait=0.01,  # it does not wake a fetch that waits
                consumer_session_timeout=3.0,
            )
    finally:
        postgres.stop()


def import_all() -> None:
    """Load what `api_and_relay` needs."""
    import app.cli.relaying
    import app.main
    import app.migrate
    import app.worker  # noqa: F401


@asynccontextmanager
async def api_and_relay(settings: "Settings", listener: socket.socket) -> AsyncIterator[None]:
    """Migrate, then serve, consume and deliver, with fakes of providers that there are no keys for."""
    async with _with_fakes(settings) as completed, _run_all(completed, listener):
        yield


@asynccontextmanager
async def _with_fakes(settings: "Settings") -> AsyncIterator["Settings"]:
    """Settings by which providers without keys are fakes in this process."""
    from app.api import server
    from app.fakes import Fakes, serve
    from app.tasks.part import in_use

    if not any(is_fake for _, is_fake in in_use(settings).values()):
        yield settings
        return
    listener = server.listen("127.0.0.1", 0)
    async with serve(Fakes(), listener):
        yield settings.model_copy(update={"fakes_url": server.url(listener)})


@asynccontextmanager
async def _run_all(settings: "Settings", listener: socket.socket) -> AsyncIterator[None]:
    """At the end API and consumers finish before the relay drains."""
    from app import migrate
    from app.cli.relaying import SupervisedRelay
    from app.main import create_app, serve
    from app.worker import Worker

    await migrate.upgrade(settings.database, message_max_bytes=settings.message_max_bytes)
    relay = SupervisedRelay(settings)
    worker = Worker(settings, on_commit=relay.wake)

    def committed() -> None:
        relay.wake()
        worker.running_tasks.wake()

    application = create_app(settings, on_commit=committed, readiness=[relay.readiness, *worker.readiness])
    stop_serving, stop_delivering, ready = asyncio.Event(), asyncio.Event(), asyncio.Event()
    delivering = asyncio.create_task(relay.run(stop_delivering))
    consuming = asyncio.create_task(worker.run(stop_serving))
    serving = asyncio.create_task(
        serve(settings, application, stop_serving, listener=listener, ready=lambda _url: ready.set())
    )
    is_ready = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({serving, is_ready}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield
    finally:
        is_ready.cancel()
        stop_serving.set()
        await asyncio.wait({serving, consuming})
        consuming.result()
        stop_delivering.set()
        await delivering
