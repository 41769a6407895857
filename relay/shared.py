"""What the slots of one process know together, and how much the next claim may take."""

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from app import log, metrics
from app.outbox.models import LANES
from app.settings import Settings
from relay.breaker import Breaker, Permit
from relay.delivery import Conclusion
from relay.floor import Lane, moved
from relay.outcomes import OwedMessage
from relay.traffic import Traffic

logger = log.get(__name__)

_STRIDE = 11
"""From claim to claim the first lane moves by this; relays start anywhere, and 11 visits all 32 lanes."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much one claim may take, and from which lane on; `probe`: it is there to probe a topic."""

    lanes: int
    messages: int
    size: int
    start: int
    probe: bool = False


@dataclass(slots=True)
class Shared:
    """What the slots of one process know together."""

    settings: Settings
    breaker: Breaker
    traffic: Traffic = field(default_factory=Traffic)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    one_by_one: set[tuple[int, str]] = field(default_factory=set)
    """Lanes and topics with a refused batch; their messages go singly until the culprit is found."""
    probe: int | None = None
    """A lane with the probe of a half-open topic; it gets a round of its own, one at a time."""
    probing: bool = False
    starts: Iterator[int] = field(default_factory=lambda: count(secrets.randbelow(LANES), step=_STRIDE))
    lanes_written_at: dict[int, float] = field(default_factory=dict)
    last_round_at: float = field(default_factory=time.monotonic)

    def due(self, before: Lane, after: Lane) -> bool:
        """Is it worth writing this lane's row? Rarely: each write leaves a dead row version behind."""
        since = time.monotonic() - self.lanes_written_at.get(after.lane, 0.0)
        return (
            moved(before, after) >= self.settings.relay_floor_step
            or since >= self.settings.relay_floor_interval.total_seconds()
        )

    def alive(self) -> None:
        """A slot finished a round, or had good reason to rest."""
        self.last_round_at = time.monotonic()
        metrics.last_round.set_to_current_time()

    def share(self, permit: Permit) -> Share:
        """One message to probe the broker; one lane under pressure or to probe a topic; else a little of all lanes."""
        settings = self.settings
        start = next(self.starts) % LANES
        if permit is Permit.PROBE:
            return Share(lanes=1, messages=1, size=1, start=start)
        if self.probe is not None and not self.probing:
            lane, self.probe, self.probing = self.probe, None, True
            return Share(1, settings.relay_batch_messages, settings.relay_batch_bytes, lane, probe=True)
        if self.traffic.pressure:
            return Share(1, settings.relay_batch_messages, settings.relay_batch_bytes, start)
        size = max(1, settings.relay_batch_bytes // LANES)
        return Share(LANES, settings.relay_light_messages, size, start)

    def singly(self, lanes: Sequence[Lane]) -> set[str]:
        """Topics whose messages in these lanes must be sent one by one."""
        claimed = {lane.lane for lane in lanes}
        return {topic for lane, topic in self.one_by_one if lane in claimed}

    def learn(self, ended: Conclusion, lanes: Sequence[Lane], sent: Sequence[OwedMessage]) -> None:
        """Take over what concerns this process: the broker's breaker, and what must go one by one."""
        if ended.silent is not None:
            self.breaker.failed()
            metrics.broker_failures.labels(ended.silent).inc()
            logger.warning("broker.silent", reason=ended.silent, unsettled=ended.repeats)
        elif ended.answered:
            self.breaker.answered()
        metrics.broker_available.set(self.breaker.closed)
        metrics.repeats_possible.inc(ended.repeats)
        if self.one_by_one:
            claimed = {lane.lane for lane in lanes}
            settled = {message.id for batch in ended.settlement.delivered for message in batch.messages}
            settled |= {letter.message.id for letter in ended.settlement.refused}
            left = {(message.lane, message.topic) for message in sent if message.id not in settled}
            self.one_by_one = {pair for pair in self.one_by_one if pair[0] not in claimed or pair in left}
        self.one_by_one |= ended.one_by_one
