"""What can be seen of tasks from outside: counters of this process, and gauges that all processes share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import lifecycle
from app.db import in_transaction
from app.settings import Settings
from app.tasks import gates
from app.tasks.outcomes import Answered, Outcome, ProviderName

_INTERVAL = timedelta(seconds=5)

calls = Counter("integration_calls_total", "Calls of providers, by how they ended", ["provider", "outcome"])
call_seconds = Histogram(
    "integration_call_seconds",
    "Duration of a call",
    ["provider"],
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 30, 60, 180),
)
tokens = Counter("integration_tokens_total", "Tokens that were paid for")
cache_hits = Counter("integration_cache_hits_total", "Tasks answered without a call")
unknown = Gauge(
    "integration_unknown_outcomes",
    "Calls of which nobody knows whether they were billed, over all processes and restarts",
    ["provider"],
)
tasks = Gauge("integration_tasks", "Tasks that have not ended", ["provider", "state"])
oldest = Gauge("integration_oldest_task_seconds", "Age of the oldest task that waits for its provider", ["provider"])
provider_open = Gauge("integration_provider_open", "1 if the provider is asked, 0 if it is left alone", ["provider"])

_UNKNOWN = text(
    """
    SELECT p.provider, count(a.id) FROM integration_providers AS p
    LEFT JOIN integration_attempts AS a ON a.provider = p.provider AND a.outcome = 'unknown'
    GROUP BY p.provider
    """
)
_TASKS = text(
    """
    SELECT p.provider, s.state, count(t.task_id),
        coalesce(extract(epoch FROM clock_timestamp() - min(t.accepted_at)), 0)
    FROM integration_providers AS p
    CROSS JOIN (VALUES ('pending'), ('running'), ('held')) AS s (state)
    LEFT JOIN integration_tasks AS t ON t.provider = p.provider AND t.state = s.state
        AND t.state IN ('pending', 'running', 'held')
    GROUP BY p.provider, s.state
    """
)
_FORGET = text(
    """
    DELETE FROM integration_cache WHERE cache_key IN (
        SELECT cache_key FROM integration_cache
        WHERE stored_at <= statement_timestamp() - CAST(:ttl AS interval) LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
    """
)


@contextmanager
def calling(provider: ProviderName) -> Iterator[None]:
    """Time a call."""
    with call_seconds.labels(provider).time():
        yield


def count(provider: ProviderName, outcome: Outcome) -> None:
    """Count how a call ended."""
    calls.labels(provider, type(outcome).__name__.lower()).inc()
    if isinstance(outcome, Answered):
        tokens.inc(outcome.tokens)


async def measure(session: AsyncSession, settings: Settings) -> None:
    """Read the gauges from the database."""
    for provider, number in (await session.execute(_UNKNOWN)).all():
        unknown.labels(provider).set(number)
    for provider, state, number, age in (await session.execute(_TASKS)).all():
        tasks.labels(provider, state).set(number)
        if state == "pending":
            oldest.labels(provider).set(age)
    for gate in await gates.states(session, settings):
        provider_open.labels(gate.provider).set(not gate.is_closed)


async def keep(sessions: async_sessionmaker[AsyncSession], settings: Settings, stop: asyncio.Event) -> None:
    """Measure, and forget answers older than TASK_CACHE_TTL, until told to stop."""

    async def once(session: AsyncSession) -> None:
        await measure(session, settings)
        await session.execute(_FORGET, {"ttl": settings.task_cache_ttl})

    while not stop.is_set():
        await in_transaction(sessions, once, deadline=settings.task_database_deadline)
        await lifecycle.wait(stop, lifecycle.jittered(_INTERVAL))
