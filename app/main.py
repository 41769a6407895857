"""The API process: what it consists of, and how it is served."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from app import asyncapi, failpoints
from app.api import docs, guard, handlers, health, messages, server
from app.api.dependencies import Database
from app.api.health import Readiness
from app.api.middleware import BodyLimit, Hosts, Observe, OneSlash
from app.applications import router as applications
from app.db import create_engine
from app.settings import Settings
from app.tasks import router as tasks
from app.users import router as users

_DESCRIPTION = """\
A change and the message about it are committed together, and the message then reaches Kafka: never
lost, never invented, in order per key.

A 2xx means committed. Every other answer is a problem (RFC 9457).
"""


def create_app(
    settings: Settings,
    *,
    engine: AsyncEngine | None = None,
    on_commit: Callable[[], None] = lambda: None,
    readiness: Sequence[Readiness] = (),
) -> FastAPI:
    """The HTTP API. Nothing is connected yet. Raises ConfigurationError.

    Without `engine` it has a pool of its own, which ends with the application's lifespan. `on_commit` is
    called after each commit that added messages to the outbox. `readiness` is what `/readyz` asks besides the
    database.
    """
    pool = engine or create_engine(
        settings, role="api", pool_size=settings.api_pool_size, deadline=settings.api_database_deadline
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await failpoints.reach("shutdown.before_close")
        if engine is None:
            await pool.dispose()

    app = FastAPI(
        title="Outbox service",
        version="0.1.0",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    database = Database(async_sessionmaker(pool, expire_on_commit=False), settings.api_database_deadline, on_commit)
    app.state.settings = settings
    app.state.database = database
    app.state.guard = guard.create(settings, database)
    handlers.install(app)
    if settings.docs_enabled:
        docs.install(app)
    app.include_router(health.create_router((*health.of_database(pool), *readiness)))
    routes = applications.create_router(settings)
    app.include_router(routes)
    app.include_router(routes, prefix="/api/v1", include_in_schema=False)
    app.include_router(users.create_router(settings))
    app.include_router(tasks.create_router(settings))
    topics = JSONResponse(asyncapi.document(settings))

    @app.get("/asyncapi.json", include_in_schema=False)
    async def describe_topics() -> Response:
        return topics

    app.include_router(messages.create_router(settings))
    # The last one added is the first that sees a request.
    app.add_middleware(BodyLimit, limit=settings.max_body_size)
    app.add_middleware(OneSlash)
    app.add_middleware(Hosts, allowed=settings.allowed_hosts)
    app.add_middleware(Observe)
    return app


async def serve(
    settings: Settings,
    app: FastAPI,
    stop: asyncio.Event,
    *,
    listener: socket.socket | None = None,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve `app` until `stop` is set; `ready` gets the URL once requests are taken.

    Without `listener` it listens at API_HOST and API_PORT. Raises ConfigurationError when that is not
    possible.
    """
    listener = listener or server.listen(settings.api_host, settings.api_port)
    url = server.url(listener)
    await server.run(app, listener, stop, stop_deadline=settings.api_stop_deadline, ready=lambda: ready(url))
