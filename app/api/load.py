"""Refusing work while there is too much of it: at once and with a time to come again, instead of a queue that grows."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from app import log, metrics
from app.api.dependencies import Database
from app.api.kinds import OVERLOADED
from app.api.problems import Refused
from app.errors import OutboxError
from app.outbox import pressure
from app.settings import ApiSettings

logger = log.get(__name__)

_FRESH = timedelta(seconds=1)
"""For how long a measured pressure is taken to be the present one."""
_SOON, _LATER = {"Retry-After": "1"}, {"Retry-After": "5"}


@dataclass(slots=True)
class Slots:
    """At most `limit` requests of this process are worked on at the same time."""

    limit: int
    taken: int = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Take a slot for the block. Raises Refused when there is none."""
        if self.taken >= self.limit:
            metrics.shed.labels("concurrency").inc()
            raise Refused(OVERLOADED, headers=_SOON)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Give the slot of this request back for the block, in which it only waits; then take it again, at once."""
        self.taken -= 1
        try:
            yield
        finally:
            self.taken += 1


@dataclass(slots=True)
class BackPressure:
    """Refuses writes while too much is owed, or for too long: Kafka does not keep up, or is away. 0 is no limit."""

    database: Database
    most_owed: int
    oldest: timedelta
    _reading: pressure.Pressure | None = None
    _read_at: float = float("-inf")
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check(self) -> None:
        """Raises Refused. Asks the database at most once a second; what it does not answer is no reason to refuse."""
        if not self.most_owed and not self.oldest:
            return
        if time.monotonic() - self._read_at > _FRESH.total_seconds():
            await self._read()
        found = self._reading
        if found is None:
            return
        if self.most_owed and found.owed > self.most_owed:
            metrics.shed.labels("owed").inc()
            raise Refused(OVERLOADED, "too many messages are owed to Kafka", headers=_LATER)
        if self.oldest and found.oldest > self.oldest:
            metrics.shed.labels("age").inc()
            raise Refused(OVERLOADED, "messages wait for Kafka for too long", headers=_LATER)

    async def _read(self) -> None:
        if self._one_at_a_time.locked() and self._reading is not None:
            return  # somebody is asking already
        async with self._one_at_a_time:
            if time.monotonic() - self._read_at <= _FRESH.total_seconds():
                return
            try:
                self._reading = await self.database.read(partial(pressure.read, limit=self.most_owed + 1))
            except OutboxError as error:
                self._reading = None
                logger.warning("pressure.unknown", reason=str(error))
            self._read_at = time.monotonic()


def slots(settings: ApiSettings) -> Slots:
    """As the settings say."""
    return Slots(settings.api_concurrency)


def back_pressure(settings: ApiSettings, database: Database) -> BackPressure:
    """As the settings say; off by default."""
    return BackPressure(database, settings.backpressure_owed, settings.backpressure_age)
