"""How many requests a visitor may send, in windows that begin with its first one.

The counting is the library's `limits`: in this process's memory, or in a Redis that several processes share.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from limits import RateLimitItemPerSecond
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import ConfigurationError as WrongUri
from limits.storage import storage_from_string
from pydantic import SecretStr

from app import log, metrics
from app.api.kinds import RATE_LIMITED
from app.api.problems import Refused
from app.errors import ConfigurationError
from app.settings import ApiSettings

logger = log.get(__name__)

_PAUSE = timedelta(seconds=1)
"""How long Redis is not asked after it failed, so that its failure costs few requests any time."""
_REDIS = ("async+redis://", "async+rediss://", "async+redis+unix://")


@dataclass(frozen=True, slots=True)
class Budget:
    """So many requests in each window; 0 is no limit."""

    name: str
    requests: int
    window: timedelta

    @property
    def policy(self) -> str:
        """The header `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers)."""
        return f'"{self.name}";q={self.requests};w={_seconds(self.window)}'


class Limits:
    """Counts requests. Who cannot be counted, because the store does not answer, is let through."""

    def __init__(self, settings: ApiSettings) -> None:
        """Raises ConfigurationError when the store's address is none. Nothing is connected yet."""
        window = settings.rate_limit_window
        self.reads = Budget("reads", settings.rate_limit_reads, window)
        self.writes = Budget("writes", settings.rate_limit_writes, window)
        self.strangers = Budget("strangers", settings.rate_limit_writes, window)
        """For requests with a wrong API key or none where one is needed."""
        self._patience = settings.rate_limit_store_timeout.total_seconds()
        self._limiter = FixedWindowRateLimiter(_storage(settings.rate_limit_store, self._patience))
        self._skip_until = 0.0

    async def take(self, budget: Budget, visitor: str) -> dict[str, str]:
        """Count one request; headers for its answer. Raises Refused when it is one too many."""
        if not budget.requests or time.monotonic() < self._skip_until:
            return {}
        item = RateLimitItemPerSecond(budget.requests, _seconds(budget.window), namespace="outbox")
        try:
            async with asyncio.timeout(self._patience):
                fits = await self._limiter.hit(item, budget.name, visitor)
                stats = await self._limiter.get_window_stats(item, budget.name, visitor)
        except Exception as error:  # noqa: BLE001 - whatever a store raises, requests go on
            self._skip_until = time.monotonic() + _PAUSE.total_seconds()
            metrics.rate_limit_failures.inc()
            logger.warning("rate_limit.open", error=type(error).__name__)
            return {}
        left = max(0, math.ceil(stats.reset_time - time.time()))
        headers = {
            "RateLimit-Policy": budget.policy,
            "RateLimit": f'"{budget.name}";r={max(0, stats.remaining)};t={left}',
        }
        if not fits:
            metrics.rate_limited.labels(budget.name).inc()
            raise Refused(RATE_LIMITED, headers=headers | {"Retry-After": str(max(1, left))})
        return headers


def _seconds(window: timedelta) -> int:
    return max(1, round(window.total_seconds()))


def _storage(setting: SecretStr | None, patience: float) -> Any:
    if setting is None:
        return storage_from_string("async+memory://")
    wrong = ConfigurationError("RATE_LIMIT_STORE: must be like async+redis://host:6379/0 (or async+rediss:// for TLS)")
    uri = setting.get_secret_value()
    if not uri.startswith(_REDIS):
        raise wrong
    from redis.asyncio.retry import Retry  # noqa: PLC0415 - a fifth of a second, which who counts in memory need not wait
    from redis.backoff import NoBackoff  # noqa: PLC0415

    options: dict[str, Any] = {
        "implementation": "redispy",
        "socket_timeout": patience,
        "socket_connect_timeout": patience,
        # Its own repeats would only make requests wait.
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        return storage_from_string(uri, **options)
    except (WrongUri, ValueError):
        raise wrong from None
