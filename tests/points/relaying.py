"""The relay meets a fault at a point of a delivery. Then it, or the next one, goes on; the judge has the last word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from app.settings import Settings
from relay.loop import Relay
from relay.publisher import KafkaPublisher
from tests.armed import child
from tests.engine import connect
from tests.failpoints import Action, Fault, Injected, armed
from tests.judge import verify
from tests.ledger import Ledger
from tests.relaying import HURRIED, hurried
from tests.services.kafka import Kafka

MESSAGES = 30
IDLE = timedelta(seconds=2)
"""So long PostgreSQL waits for a slot that does nothing in its transaction; a sleeping one is late."""
SECONDS = 2.7

# How many messages may come twice: those that the broker has and the outbox owes again.
POINTS = {
    "relay.after_claim": 0,
    "relay.after_fetch": 0,
    "relay.before_send": MESSAGES,  # to this broker nothing was sent; to others perhaps
    "relay.after_send": MESSAGES,
    "relay.after_ack_before_settle": MESSAGES,
    "relay.before_commit": MESSAGES,
    "relay.after_commit": 0,
    "relay.housekeeping_before_commit": MESSAGES,  # slots may be anywhere then
    "shutdown.before_flush": MESSAGES,
}
# Here the broker has confirmed everything, so all of it must come twice: else the fault was none.
_ALL_TWICE = {"relay.after_ack_before_settle", "relay.before_commit"}
# Who is late here knows nothing of the others that have its lanes by now, and publishes once more.
_ZOMBIE = "relay.after_fetch"
_SLOTS = 2


@dataclass(frozen=True)
class Delivery:
    """Messages that are owed, and who is to deliver them."""

    database_url: str
    kafka: Kafka
    topic: str
    ledger: Ledger
    is_late: bool

    @property
    def settings(self) -> Settings:
        loaded = hurried(self.database_url, self.kafka.bootstrap_servers, relay_slots=_SLOTS)
        return loaded.model_copy(update={"relay_idle_timeout": IDLE}) if self.is_late else loaded

    async def more(self) -> None:
        await self.ledger.fill(self.topic, messages=MESSAGES, keys=7)

    async def judge(self, fault: Fault) -> None:
        """Of the messages before the fault and after it nothing is lost; and what may be repeated is known."""
        zombie = fault.point == _ZOMBIE and fault.action is Action.SLEEP
        repeats = MESSAGES if zombie else POINTS[fault.point]
        records = await verify(self.kafka, self.database_url, self.ledger.messages, repeats=repeats)
        if fault.point in _ALL_TWICE:
            assert len(records) == len(self.ledger.messages) + MESSAGES, "the fault came to nothing"


@asynccontextmanager
async def owing(database_url: str, kafka: Kafka, fault: Fault) -> AsyncIterator[Delivery]:
    topic = await kafka.create_topic(partitions=2)
    async with connect(database_url) as connection:
        delivery = Delivery(database_url, kafka, topic, Ledger(connection), is_late=fault.action is Action.SLEEP)
        await delivery.more()
        yield delivery


@asynccontextmanager
async def delivering(settings: Settings) -> AsyncIterator[None]:
    """A relay that runs until the end of the block; it must then stop by itself."""
    stop = asyncio.Event()
    run = asyncio.create_task(Relay(settings, lambda: KafkaPublisher(settings)).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(run, 30)


async def die_at(point: str, database_url: str, kafka: Kafka) -> None:
    """A relay dies there; another one takes over."""
    fault = Fault(point, Action.EXIT)
    async with owing(database_url, kafka, fault) as delivery:
        settings = HURRIED | {
            "database_url": database_url,
            "kafka_bootstrap_servers": kafka.bootstrap_servers,
            "relay_port": 0,
            "relay_slots": _SLOTS,
        }
        async with child("relay", fault=fault, settings=settings) as dying:
            if point.startswith("shutdown."):
                await dying.stop_soon("relay.ready")
            await dying.dies()
        async with child("relay", settings=settings) as heir:
            await heir.says("relay.ready")
            await delivery.more()
            await delivery.judge(fault)
            await heir.stop()


async def meet(fault: Fault, database_url: str, kafka: Kafka) -> None:
    """A relay fails, is cancelled or late there, and goes on by itself."""
    async with owing(database_url, kafka, fault) as delivery:
        with armed(fault) as arming:
            async with delivering(delivery.settings):
                await asyncio.wait_for(arming.struck.wait(), 30)
                await delivery.more()
                await delivery.judge(fault)


async def meet_while_stopping(fault: Fault, database_url: str, kafka: Kafka) -> None:
    """The same for a relay that has been told to stop: it may end in any way, and the next one goes on."""
    async with owing(database_url, kafka, fault) as delivery:
        with armed(fault):
            stop = asyncio.Event()
            relay = Relay(delivery.settings, lambda: KafkaPublisher(delivery.settings))
            run = asyncio.create_task(relay.run(stop))
            stop.set()
            with suppress(Injected, asyncio.CancelledError):
                await asyncio.wait_for(run, 30)
        async with delivering(delivery.settings):
            await delivery.more()
            await delivery.judge(fault)
