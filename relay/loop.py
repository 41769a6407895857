"""The relay of a process: its slots and its housekeeping, from start to stop."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from app import failpoints, log
from app.lifecycle import supervise
from app.settings import Settings
from relay import housekeeping
from relay.breaker import Breaker
from relay.outcomes import Publisher
from relay.shared import Shared
from relay.slot import Slot

logger = log.get(__name__)


class Relay:
    """All slots of a process and their housekeeping. Any number of relays may run, anywhere."""

    def __init__(self, settings: Settings, publisher: Callable[[], Publisher]) -> None:
        breaker = Breaker(first_pause=settings.relay_probe_min, longest_pause=settings.relay_probe_max)
        self._shared = Shared(settings, breaker)
        self._slots = [Slot(self._shared, publisher()) for _ in range(settings.relay_slots)]

    def wake(self) -> None:
        """Something was committed in this process: look now. Only a hint; polling finds everything."""
        self._shared.wake.set()

    @property
    def idle_for(self) -> timedelta:
        """How long ago a slot last finished a round or found nothing to do."""
        return timedelta(seconds=time.monotonic() - self._shared.last_round_at)

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop; then finish or abandon the batches in hand within the publish deadline."""
        settings = self._shared.settings
        tasks = [
            asyncio.create_task(supervise(f"slot-{number}", partial(slot.run, stop), stop), name=f"slot-{number}")
            for number, slot in enumerate(self._slots)
        ]
        keeper = partial(housekeeping.run, settings, stop)
        tasks.append(asyncio.create_task(supervise("housekeeping", keeper, stop), name="housekeeping"))
        try:
            await stop.wait()
            await failpoints.reach("shutdown.before_flush")
            self._shared.traffic.release()
            self._shared.wake.set()
            _, late = await asyncio.wait(tasks, timeout=settings.publish_deadline.total_seconds() + 2)
            if late:
                logger.warning("relay.stopped_late", tasks=sorted(task.get_name() for task in late))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
