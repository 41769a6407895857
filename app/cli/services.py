"""The processes: `outbox api`, `outbox relay`, `outbox worker`, and asking one how it is."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import running

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.api.health import Readiness
    from app.settings import Settings

app = typer.Typer()

_HTTP_OK = 200


def _overrides(**given: object) -> dict[str, object]:
    return {name: value for name, value in given.items() if value is not None}


@app.command(epilog="Example: outbox api --host 0.0.0.0 --port 8000")
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, instead of API_PORT; 0: a free one.")] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; requests under way are finished."""
    running.run(_api(running.settings(**_overrides(api_host=host, api_port=port))))


async def _api(settings: "Settings") -> None:
    from app import lifecycle, log
    from app.main import create_app, serve

    logger = log.get("app.api")
    with lifecycle.stop_on_signals() as stop:
        await serve(settings, create_app(settings), stop, ready=lambda url: logger.info("api.ready", url=url))


@app.command(epilog="Example: outbox relay --port 9100")
def relay(
    host: Annotated[str | None, typer.Option(help="Address of /livez, /readyz, /metrics; else RELAY_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port for them, instead of RELAY_PORT; 0: a free one.")] = None,
) -> None:
    """Move owed messages to Kafka until SIGTERM or Ctrl-C; any number of relays may run, anywhere.

    The batch in hand is finished, or given up after PUBLISH_DEADLINE: both are safe. A second signal ends at once.
    """
    running.run(_relay(running.settings(**_overrides(relay_host=host, relay_port=port))))


async def _relay(settings: "Settings") -> None:
    from app import lifecycle, log
    from app.api import health, server
    from app.cli.relaying import SupervisedRelay
    from app.db import create_engine

    logger = log.get("relay")
    listener = server.listen(settings.relay_host, settings.relay_port, setting="RELAY")
    delivering = SupervisedRelay(settings)
    engine = create_engine(settings, role="relay-health", pool_size=1, deadline=settings.api_database_deadline)
    web = _health_app("Relay", (*health.of_database(engine, engine_only=True), delivering.readiness))
    url = server.url(listener)

    def ready() -> None:
        logger.info("relay.ready", url=url)

    # Whoever asks is answered until the last message is settled.
    served = asyncio.Event()
    with lifecycle.stop_on_signals() as stop:
        serving = asyncio.create_task(
            server.run(web, listener, served, stop_deadline=timedelta(seconds=1), ready=ready)
        )
        try:
            await delivering.run(stop)
        finally:
            served.set()
            await serving
            await engine.dispose()


@app.command(epilog="Example: outbox worker --port 9200")
def worker(
    host: Annotated[str | None, typer.Option(help="Address of /livez, /readyz, /metrics; else WORKER_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port for them, instead of WORKER_PORT; 0: a free one.")] = None,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on where Kafka lost or spoiled the next records.")
    ] = False,
) -> None:
    """Consume requests from Kafka until SIGTERM or Ctrl-C; any number of workers may run, anywhere.

    The batch in hand is finished first, or given up after CONSUMER_DRAIN_DEADLINE: both are safe.
    """
    running.run(_worker(running.settings(**_overrides(worker_host=host, worker_port=port)), accept_gap=accept_gap))


async def _worker(settings: "Settings", *, accept_gap: bool) -> None:
    from app import lifecycle, log
    from app.api import health, server
    from app.worker import Worker, end_when_hung

    logger = log.get("app.worker")
    listener = server.listen(settings.worker_host, settings.worker_port, setting="WORKER")
    consuming = Worker(settings, accept_gap=accept_gap)
    web = _health_app("Worker", (*health.of_database(consuming.engine), *consuming.readiness))
    url = server.url(listener)
    served = asyncio.Event()
    with lifecycle.stop_on_signals() as stop, end_when_hung(settings.consumer_hang_limit):
        serving = asyncio.create_task(
            server.run(
                web,
                listener,
                served,
                stop_deadline=timedelta(seconds=1),
                ready=lambda: logger.info("worker.ready", url=url),
            )
        )
        try:
            await consuming.run(stop)
        finally:
            served.set()
            await serving


def _health_app(title: str, readiness: Sequence["Readiness"]) -> "FastAPI":
    from fastapi import FastAPI

    from app.api import handlers, health

    web = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    handlers.install(web)
    web.include_router(health.create_router(readiness))
    return web


@app.command(epilog="Example: outbox health --url http://127.0.0.1:9100/readyz")
def health(
    url: Annotated[
        str | None, typer.Option(help="What to ask; /readyz at API_PORT of this machine if not given.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 4.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
) -> None:
    """Ask a process whether it is ready: exit code 0 if it is, 1 if not."""
    from app.cli.http import ask

    if url is None:
        from app.settings import load

        url = f"http://127.0.0.1:{load().api_port}/readyz"
    answer = ask(url, timeout=timedelta(seconds=timeout))
    content = answer.json()
    if as_json:
        print(answer.body.decode("utf-8", "replace"))
    elif answer.status == _HTTP_OK:
        print("ready")
    else:
        detail = content.get("detail") if isinstance(content, dict) else None
        print(detail or f"not ready: HTTP {answer.status}")
    raise typer.Exit(0 if answer.status == _HTTP_OK else 1)
