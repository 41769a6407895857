"""What the slots of one process know together, and how much the next claim may take."""

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from app import log, metrics
from app.outbox.models import LANES
from app.settings import Settings
from relay.breaker import Breaker, Permit
from relay.delivery import Conclusion, Plan
from relay.floor import Lane
from relay.outcomes import OwedMessage
from relay.traffic import Traffic

logger = log.get(__name__)

_STRIDE = 11
"""From look to look the first lane moves by this; relays start anywhere, and 11 visits all 32 lanes."""


class Share(NamedTuple):
    """How much one claim may take: `limit` of these lanes, the first ones first, and so much of each.

    `probe`: it is there to probe a topic.
    """

    lanes: Sequence[int]
    limit: int
    messages: int
    size: int
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
    payload_max: int | None = None
    """No payload had more bytes when a slot last looked; None: not known."""
    backlog: list[int] = field(default_factory=list)
    """Lanes known to have work that no slot of this process holds, found by one slot for all; only read under pressure.
    """
    held: dict[int, bool] = field(default_factory=dict)
    """Lanes that slots of this process hold, and whether they are known to have more."""
    behind: dict[int, float] = field(default_factory=dict)
    """Lanes whose floor is far behind, and when (monotonic seconds) to claim them for that alone."""
    starts: Iterator[int] = field(default_factory=lambda: count(secrets.randbelow(LANES), step=_STRIDE))
    lanes_written_at: dict[int, float] = field(default_factory=dict)
    last_round_at: float = field(default_factory=time.monotonic)

    def due(self, lane: int, ids: int) -> bool:
        """Is it worth writing this lane's row when it moves by so many ids? Rarely: each write leaves a dead row
        version behind.
        """
        since = time.monotonic() - self.lanes_written_at.get(lane, 0.0)
        return ids >= self.settings.relay_floor_step or since >= self.settings.relay_floor_interval.total_seconds()

    def alive(self) -> None:
        """A slot finished a round, or had good reason to rest."""
        self.last_round_at = time.monotonic()
        metrics.last_round.set_to_current_time()

    def known(self, permit: Permit) -> Share | None:
        """What to claim without looking: the lane of a topic's probe, or, under pressure, one known to have work."""
        if permit is not Permit.CLAIM:
            return None
        if self.probe is not None and not self.probing:
            lane, self.probe, self.probing = self.probe, None, True
            return self._one([lane], probe=True)
        return self._one(self.backlog) if self.traffic.pressure and self.backlog else None

    def found(self, lanes: Sequence[int], permit: Permit) -> Share | None:
        """What to claim of the lanes that have work: one message of one to probe the broker, one under pressure, else
        all, with as much of each as makes a full round. Without any, the lanes whose floor is behind.
        """
        if not lanes:
            self.traffic.relax()
            now = time.monotonic()
            lanes = [lane for lane, due in self.behind.items() if due <= now]
        lanes = [lane for lane in lanes if lane not in self.held]
        if not lanes:
            return None
        start = next(self.starts)
        rotated = sorted(lanes, key=lambda lane: (lane - start) % LANES)
        if permit is Permit.PROBE:
            return Share(rotated, limit=1, messages=1, size=1)
        if self.traffic.pressure:
            self.backlog = rotated
            return self._one(rotated)
        return self.light(rotated)

    def light(self, lanes: Sequence[int]) -> Share:
        """All of these lanes, with as much of each as makes a full round."""
        settings, number = self.settings, max(1, len(lanes))
        messages = max(settings.relay_light_messages, settings.relay_batch_messages // number)
        return Share(lanes, limit=LANES, messages=messages, size=max(1, settings.relay_batch_bytes // number))

    def counted(self, share: Share) -> bool:
        """Must a fetch count the bytes of this share? Not where so many messages cannot have more. What came after the
        look may be longer, but is no more than was written since.
        """
        return self.payload_max is None or share.messages * self.payload_max > share.size

    def _one(self, lanes: Sequence[int], *, probe: bool = False) -> Share:
        settings = self.settings
        return Share(tuple(lanes), 1, settings.relay_batch_messages, settings.relay_batch_bytes, probe)

    def claimed(self, lanes: Sequence[Lane]) -> None:
        """These lanes are this slot's now; none means that other processes hold all there was."""
        taken = {lane.lane for lane in lanes}
        self.held |= dict.fromkeys(taken, False)
        self.backlog = [lane for lane in self.backlog if lane not in taken] if taken else []
        if not taken:
            self.traffic.relax()

    def released(self, lanes: Sequence[Lane]) -> None:
        """This slot's round is over. Others may be waiting for these lanes, and may have them already: a commit frees
        a lane before its slot hears of it.
        """
        self.backlog += [lane.lane for lane in lanes if self.held.pop(lane.lane, False)]
        if lanes and self.traffic.pressure:
            self.wake.set()

    def planned(self, share: Share, lanes: Sequence[Lane], plan: Plan) -> None:
        """A cut list means that there is more: pressure, until all lanes known to have work are emptied."""
        self.probe = plan.probe if self.probe is None else self.probe
        if plan.full and share.limit > 1:
            self.traffic.call_all()
        elif plan.full:
            self.held |= {lane.lane: True for lane in lanes}
        elif not self.backlog:
            self.traffic.relax()

    def written(self, lanes: Sequence[Lane]) -> None:
        """Remember when rows of lanes were written, and which floors are so far behind that scans would walk over what
        was delivered, even when nothing more comes.
        """
        now = time.monotonic()
        for lane in lanes:
            self.lanes_written_at[lane.lane] = now
            if max(lane.seen, lane.mark or 0) - lane.floor >= self.settings.relay_floor_step:
                self.behind[lane.lane] = now + self.settings.relay_floor_interval.total_seconds()
            else:
                self.behind.pop(lane.lane, None)

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
        if ended.repeats:
            metrics.repeats_possible.inc(ended.repeats)
        if self.one_by_one:
            claimed = {lane.lane for lane in lanes}
            settled = {message.id for batch in ended.settlement.delivered for message in batch.messages}
            settled |= {letter.message.id for letter in ended.settlement.refused}
            left = {(message.lane, message.topic) for message in sent if message.id not in settled}
            self.one_by_one = {pair for pair in self.one_by_one if pair[0] not in claimed or pair in left}
        self.one_by_one |= ended.one_by_one
