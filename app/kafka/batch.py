"""Handling inputs: a batch of them in one transaction, or one alone whose attempt is counted first.

In the transaction that does the work, the inbox remembers what was dealt with, and the outbox owes the answers and the
dead letters. So a repeat, whenever and wherever it comes, has no second effect.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app import failpoints, log, metrics, outbox
from app.db import in_transaction, sqlstate
from app.errors import OutboxError, Unavailable
from app.inbox import store
from app.inbox.store import Attempts, Entry, Place
from app.kafka.dead_letter import dead_letter
from app.kafka.input import Input, coordinates, fingerprint
from app.outbox import OutboxMessage
from app.settings import Settings

logger = log.get(__name__)

KEY_REUSED, TOO_OLD, ATTEMPTS_EXHAUSTED = "KEY_REUSED", "TOO_OLD", "ATTEMPTS_EXHAUSTED"

_LARGE = 16_384
"""Bytes; a larger value is decoded off the event loop."""
_PORTION = 262_144
"""Bytes that are decoded on the event loop before others get a turn."""

_T = TypeVar("_T")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Not what the consumer takes: it becomes a dead letter. `answered`: the handler owes an answer too."""

    reason: str
    answered: bool = True


class Handler(Protocol[_T]):
    """What a domain does with its inputs."""

    def decode(self, record: Input) -> _T | Undecodable:
        """What the input says. A pure function; it may be called in another thread."""

    def identify(self, record: Input, content: _T | Undecodable, /) -> str:
        """The id by which a repeat is recognised (`app.kafka.input.identify`)."""

    async def handle(self, session: AsyncSession, inputs: Sequence[tuple[Input, _T]]) -> Sequence[OutboxMessage]:
        """Turn inputs, each seen for the first time, into rows; the answers that are owed for them."""

    def refuse(self, record: Input, reason: str) -> Sequence[OutboxMessage]:
        """The answers that are owed for an input that became a dead letter."""


class DecodeHung(OutboxError):
    """Decoding a record took too long. It may still be running: a thread cannot be ended."""


@dataclass(frozen=True, slots=True)
class _Item(Generic[_T]):
    record: Input
    content: _T | Undecodable
    message_id: str
    fingerprint: bytes
    attempts: Attempts | None = None

    @property
    def entry(self) -> Entry:
        outcome: store.Outcome = "dead_lettered" if isinstance(self.content, Undecodable) else "handled"
        return Entry(self.message_id, self.fingerprint, outcome)


class Batches(Generic[_T]):
    """Transactions of one consumer. `name` is its group: what the inbox knows repeats by."""

    def __init__(
        self,
        settings: Settings,
        handler: Handler[_T],
        *,
        name: str,
        dead_letters: str,
        sessions: async_sessionmaker[AsyncSession],
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._handler = handler
        self.name = name
        self._dead_letters = dead_letters
        self._sessions = sessions
        self._on_commit = on_commit
        self._begun: dict[Place, Attempts] = {}

    async def handle(self, records: Sequence[Input]) -> None:
        """Handle all of them, or none, in one transaction.

        Raises DatabaseUnavailable when it may be tried again later, and anything else when one of them cannot be
        handled: then each has to be taken singly.
        """
        items, portion = [], 0
        for record in records:
            items.append(await self._decode(record))
            portion += len(record.value or b"")
            if portion > _PORTION:
                portion = 0
                await asyncio.sleep(0)
        await self._transaction(items)

    async def handle_singly(self, record: Input) -> None:
        """Handle one, whatever it does to us: its attempt is committed first, and after too many it is a dead letter.

        Raises DatabaseUnavailable; the same call again does not count as another attempt.
        """
        place = Place(record.topic, record.partition, record.offset)
        while True:
            attempts = self._begun.get(place) or await self._begin(place)
            if attempts.number > self._settings.consumer_max_attempts:
                await self._give_up(record, attempts)
                break
            try:
                await self._transaction([await self._decode(record)], done=place)
                break
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the record gets only so many attempts
                self._begun.pop(place, None)
                self._report("record.failed", error, record, attempts)
        self._begun.pop(place, None)

    async def _begin(self, place: Place) -> Attempts:
        async def work(session: AsyncSession) -> Attempts:
            return await store.begin_attempt(session, self.name, place)

        attempts = await self.in_transaction(work)
        # Tried again after the database was away, this is still the same attempt.
        self._begun[place] = attempts
        await failpoints.reach("ingest.after_attempt_row")
        return attempts

    async def _give_up(self, record: Input, attempts: Attempts) -> None:
        """Make it a dead letter without touching what it contains."""
        await failpoints.reach("dlq.before_give_up")
        for answered in (True, False):
            item = self._item(record, Undecodable(ATTEMPTS_EXHAUSTED, answered=answered), attempts)
            try:
                await self._transaction([item], done=Place(record.topic, record.partition, record.offset))
                return
            except Unavailable:
                raise
            except Exception as error:
                # Not even the answer can be made: the dead letter goes without it.
                self._report("record.refusal_failed", error, record, attempts)
                if not answered:
                    raise

    async def _decode(self, record: Input) -> _Item[_T]:
        await failpoints.reach("ingest.in_parse")
        if record.is_older_than(self._settings.inbox_retention):
            return self._item(record, Undecodable(TOO_OLD, answered=False))
        if record.flaw is not None:
            return self._item(record, Undecodable(record.flaw))
        if len(record.value or b"") <= _LARGE:
            return self._item(record, self._handler.decode(record))
        content = await _in_thread(lambda: self._handler.decode(record), self._settings.consumer_decode_deadline)
        return self._item(record, content)

    def _item(self, record: Input, content: _T | Undecodable, attempts: Attempts | None = None) -> _Item[_T]:
        return _Item(record, content, self._handler.identify(record, content), fingerprint(record), attempts)

    async def _transaction(self, items: Sequence[_Item[_T]], *, done: Place | None = None) -> None:
        async def work(session: AsyncSession) -> tuple[int, int]:
            fresh, clashes = await self._remember(session, items)
            await failpoints.reach("ingest.after_inbox_row")
            messages = [self._dead_letter(item, KEY_REUSED) for item in clashes]
            inputs: list[tuple[Input, _T]] = []
            for item in fresh:
                if isinstance(item.content, Undecodable):
                    messages.append(self._dead_letter(item, item.content.reason))
                    if item.content.answered:
                        messages += self._handler.refuse(item.record, item.content.reason)
                else:
                    inputs.append((item.record, item.content))
            if inputs:
                messages += await self._handler.handle(session, inputs)
                await failpoints.reach("ingest.after_domain")
            if done is not None:
                await store.end_attempt(session, self.name, done)
            # Last: the locks of the keys are held until the commit.
            await outbox.add(session, *messages)
            dead_lettered = len(fresh) - len(inputs) + len(clashes)
            if dead_lettered:
                await failpoints.reach("dlq.after_outbox_row")
            await failpoints.reach("ingest.before_commit")
            return len(inputs), dead_lettered

        with metrics.consumer_batch_seconds.labels(self.name).time():
            handled, dead_lettered = await self.in_transaction(work)
        await failpoints.reach("ingest.after_commit_before_offset")
        self._on_commit()
        counts = {"handled": handled, "dead_lettered": dead_lettered, "repeated": len(items) - handled - dead_lettered}
        for outcome, count in counts.items():
            metrics.consumed.labels(self.name, outcome).inc(count)

    async def in_transaction(self, work: Callable[[AsyncSession], Awaitable[_Result]]) -> _Result:
        """Do `work` in one transaction of this consumer. Raises DatabaseUnavailable."""
        return await in_transaction(self._sessions, work, deadline=self._settings.consumer_database_deadline)

    async def _remember(
        self, session: AsyncSession, items: Sequence[_Item[_T]]
    ) -> tuple[list[_Item[_T]], list[_Item[_T]]]:
        """Of these the ones seen for the first time, and those under whose id something else was seen before."""
        first: dict[str, _Item[_T]] = {}
        for item in items:
            first.setdefault(item.message_id, item)
        new = await store.remember(session, self.name, [item.entry for item in first.values()])
        known = {name: item.fingerprint for name, item in first.items() if name in new}
        if len(known) < len(first):
            known |= await store.fingerprints(session, self.name, first.keys() - new)
        # Each by itself: what came first in this batch may be the one that clashes, and come twice.
        clashes = [item for item in items if known.get(item.message_id) != item.fingerprint]
        fresh = [item for item in first.values() if item.message_id in new]
        return fresh, await self._only_new(session, clashes) if clashes else []

    async def _only_new(self, session: AsyncSession, clashes: Sequence[_Item[_T]]) -> list[_Item[_T]]:
        """Under its own id a clash would be remembered as the other message, so it is under its place."""
        by_place = {f"reused:{coordinates(item.record)}": item for item in clashes}
        entries = [Entry(name, item.fingerprint, "dead_lettered") for name, item in by_place.items()]
        new = await store.remember(session, self.name, entries)
        return [item for name, item in by_place.items() if name in new]

    def _dead_letter(self, item: _Item[_T], reason: str) -> OutboxMessage:
        record = item.record
        logger.warning(
            "record.dead_lettered",
            consumer=self.name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
        return dead_letter(
            record,
            topic=self._dead_letters,
            consumer=self.name,
            source=self._settings.event_source,
            reason=reason,
            attempts=item.attempts,
            max_bytes=self._settings.message_max_bytes,
        )

    def _report(self, event: str, error: Exception, record: Input, attempts: Attempts) -> None:
        metrics.consumer_failures.labels(self.name, sqlstate(error) or type(error).__name__).inc()
        logger.error(
            event,
            consumer=self.name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempt=attempts.number,
            exc_info=error,
        )


async def _in_thread(work: Callable[[], _Result], deadline: timedelta) -> _Result:
    """Run `work` in a thread of its own. Raises DecodeHung after `deadline`.

    Not in the loop's pool: a thread of that, once stuck, would keep the process from ending.
    """
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], object] = future.set_result, work()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            outcome = future.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="decode", daemon=True).start()
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            return cast("_Result", await future)
    except TimeoutError:
        raise DecodeHung(f"decoding took longer than {deadline.total_seconds():g} s") from None
