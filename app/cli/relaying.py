"""The relay of this process: it is restarted when it ends, and the process is not ready while it does not run."""

import asyncio
from functools import partial

from app import lifecycle
from app.api.health import Readiness
from app.errors import Unavailable
from app.settings import Settings
from relay.loop import Relay
from relay.publisher import KafkaPublisher


class SupervisedRelay:
    """A relay, and after a failure another one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._relay: Relay | None = None

    def wake(self) -> None:
        """A message was committed in this process."""
        if self._relay is not None:
            self._relay.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop, then drain."""
        await lifecycle.supervise("relay", partial(self._run_once, stop), stop)

    async def _run_once(self, stop: asyncio.Event) -> None:
        self._relay = Relay(self._settings, partial(KafkaPublisher, self._settings))
        try:
            await self._relay.run(stop)
        finally:
            self._relay = None

    @property
    def readiness(self) -> Readiness:
        """Ready while the relay runs and its slots come round."""
        return Readiness("relay", self._check)

    async def _check(self) -> None:
        if self._relay is None:
            raise Unavailable("the relay does not run; it is started again")
        idle = self._relay.idle_for
        if idle >= self._settings.relay_stalled_after:
            raise Unavailable(f"no slot finished a round for {idle.total_seconds():.0f} s")
