"""Is the process alive, can it do its work, and how much of it does it do?"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app import lifecycle, log, migrate
from app.api.kinds import UNAVAILABLE
from app.api.problems import answer, documented
from app.db import is_transient, unavailable
from app.errors import OutboxError

logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Something without which this process cannot do its work.

    `check` returns when all is well and raises an OutboxError that says what is not; it may take as long as
    `budget`.
    """

    name: str
    check: Callable[[], Coroutine[Any, Any, None]]
    budget: timedelta = timedelta(seconds=1)


def of_database(engine: AsyncEngine, *, engine_only: bool = False) -> tuple[Readiness, ...]:
    """PostgreSQL answers, and stands at the migrations that this code was written for (or at the engine's)."""

    async def reachable() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def migrated() -> None:
        async with engine.connect() as connection:
            await migrate.check(connection, engine_only=engine_only)

    return Readiness("database", reachable), Readiness("migrations", migrated)


async def _state(readiness: Readiness) -> dict[str, Any]:
    """How one check went. Never raises; a check that fails in an unforeseen way is one that failed."""
    started = time.perf_counter()
    problem = None
    try:
        await lifecycle.within(readiness.budget, readiness.check())
    except TimeoutError:
        problem = f"no answer within {readiness.budget.total_seconds():g} s"
    except OutboxError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - readiness has an answer whatever happens
        problem = str(unavailable(error)) if is_transient(error) else type(error).__name__
    state: dict[str, Any] = {
        "ready": problem is None,
        "milliseconds": round((time.perf_counter() - started) * 1000, 1),
    }
    return state if problem is None else state | {"problem": problem}


def create_router(readiness: Sequence[Readiness]) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`; ready when all of `readiness` is."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Is the process alive?")
    async def livez() -> dict[str, str]:
        """Asks nothing but the process itself, so that a database that is down does not get it restarted."""
        return {"status": "alive"}

    @router.get("/readyz", summary="Can it do its work?", responses=documented(UNAVAILABLE))
    async def readyz(request: Request) -> Response:
        """Each part with its state; 503 when one of them is not ready."""
        states = await asyncio.gather(*(_state(each) for each in readiness))
        checks = {each.name: state for each, state in zip(readiness, states, strict=True)}
        failed = {name: state["problem"] for name, state in checks.items() if not state["ready"]}
        if not failed:
            return JSONResponse({"status": "ready", "checks": checks})
        logger.warning("not.ready", **failed)
        return answer(
            request.scope,
            UNAVAILABLE,
            f"not ready: {', '.join(failed)}",
            headers={"Retry-After": "1"},
            extensions={"checks": checks},
        )

    @router.get("/metrics", summary="Measurements, for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """In the text format of Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
