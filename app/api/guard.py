"""What each request of the API goes through before its route sees it: who asks, how often, and is there room?"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from app.api import callers, client_address, limits, load
from app.api.callers import ApiKey, Caller, Scope
from app.api.client_address import Network
from app.api.dependencies import Database
from app.api.kinds import FORBIDDEN, UNAUTHENTICATED
from app.api.limits import Limits
from app.api.problems import Refused
from app.settings import ApiSettings

_READING = {"GET", "HEAD"}
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="outbox"'}


@dataclass(frozen=True, slots=True)
class Guard:
    """Asked by the route, never by the path: a path has many spellings, and one of them is forgotten."""

    keys: tuple[ApiKey, ...]
    trusted: tuple[Network, ...]
    limits: Limits
    slots: load.Slots
    pressure: load.BackPressure

    async def admit(self, request: Request, scope: Scope | None = None) -> None:
        """Let the request in, or raise Refused. Nothing of its body was read yet.

        `scope` is what a key must allow; by default it goes by the method.
        """
        reading = request.method in _READING
        visitor = client_address.visitor(request.scope, self.trusted)
        needed, caller = scope or (Scope.READ if reading else Scope.WRITE), None
        if self.keys:
            caller = await self._caller(request, visitor)
            request.state.caller = caller.name
            visitor = f"key {caller.name}"
        budget = self.limits.reads if reading else self.limits.writes
        request.state.headers = await self.limits.take(budget, visitor)
        if caller is not None and needed not in caller.scopes:
            raise Refused(FORBIDDEN)
        if not reading:
            await self.pressure.check()

    async def _caller(self, request: Request, visitor: str) -> Caller:
        caller = callers.authenticate(self.keys, callers.presented(request.headers))
        if caller is None:
            request.state.headers = await self.limits.take(self.limits.strangers, visitor)
            raise Refused(UNAUTHENTICATED, headers=_CHALLENGE)
        return caller

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Work on a request, whose body is there. Raises Refused when there are too many."""
        with self.slots.one():
            yield

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Wait inside of `working`, without taking room from others."""
        with self.slots.resting():
            yield


def guard_of(request: Request) -> Guard:
    """The guard that let this request in."""
    return cast("Guard", request.app.state.guard)


def create(settings: ApiSettings, database: Database) -> Guard:
    """As the settings say. Raises ConfigurationError."""
    return Guard(
        callers.parse(settings.api_keys),
        client_address.networks(settings.trusted_proxies),
        limits.Limits(settings),
        load.slots(settings),
        load.back_pressure(settings, database),
    )
