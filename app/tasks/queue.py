"""The tasks of one provider, in one process: claim, ask, settle."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app import failpoints, lifecycle, log
from app.errors import Unavailable
from app.settings import Settings
from app.tasks import claims, measures, settling
from app.tasks.claims import Claim, Terms
from app.tasks.database import Database
from app.tasks.outcomes import Busy, Outcome, Provider, ProviderName, Question

logger = log.get(__name__)

_SLOT_MARGIN = timedelta(seconds=2)
"""A slot is leased for so much longer than its call may take."""
_SETTLE_PAUSE = timedelta(seconds=0.2)


def terms_of(settings: Settings, provider: ProviderName) -> Terms:
    """How this provider is called, by the settings."""
    if provider == "dadata":
        slots, rate, deadline = settings.dadata_slots, settings.dadata_rate, 2 * settings.dadata_timeout
    else:
        slots, rate = settings.yandexgpt_slots, settings.yandexgpt_rate
        deadline = max(settings.yandexgpt_timeout, timedelta(seconds=10))
    slot_lease = deadline + _SLOT_MARGIN
    return Terms(
        slots=slots,
        interval=timedelta(seconds=slots / rate if rate else 0),
        slot_lease=slot_lease,
        task_lease=slot_lease + settings.task_lease_margin,
        failures_to_close=settings.provider_failures_to_close,
    )


class Queue:
    """Claims, asks and settles. `on_commit` is called after each commit that may have added messages."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        name: ProviderName,
        provider: Provider,
        on_commit: Callable[[], None],
    ) -> None:
        self.name = name
        self._settings, self._database, self._provider, self._on_commit = settings, database, provider, on_commit
        self._terms = terms_of(settings, name)
        self._holder = uuid4()
        self._idle: list[int] = []
        """Slots that are this process's and have no call under way."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._chains = 0
        self._settling = 0
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """Look for due tasks now."""
        self._awake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until told to stop; what is under way then is waited for, at most TASK_STOP_DEADLINE."""
        stopping = asyncio.create_task(self._wake_at(stop))
        try:
            await self._claim_and_call(stop)
        finally:
            stopping.cancel()
            await self._finish()

    async def _finish(self) -> None:
        """Wait for calls under way and their settling; what is late is given up, and its outcome is then unknown."""
        await failpoints.reach("shutdown.before_finish")
        end = time.monotonic() + self._settings.task_stop_deadline.total_seconds()
        while self._tasks and (left := end - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Unavailable):  # then the leases of the slots end by themselves
            await self._release()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.wake()

    async def _claim_and_call(self, stop: asyncio.Event) -> None:
        """Start as many chains of calls as there is work and slots for; a chain goes on by itself."""
        pause = self._settings.task_poll_min
        while not stop.is_set():
            self._awake.clear()
            try:
                started, claim = time.monotonic(), await self._claim() if self._has_room() else None
                if claim is None:
                    await self._release()
            except Unavailable as error:
                # Calls under way are left alone: their answers are brought in when the database is back.
                logger.warning("tasks.wait", provider=self.name, reason=str(error))
                started, claim, pause = time.monotonic(), None, self._settings.task_poll_max
            if claim is not None:
                self._chains += 1
                self._spawn(self._chain(claim, started, stop))
                pause = self._settings.task_poll_min
                continue
            await lifecycle.wait(self._awake, lifecycle.jittered(pause))
            pause = min(pause * 2, self._settings.task_poll_max)

    def _has_room(self) -> bool:
        """Calls under way are bounded by the slots, and so are answers that are not settled yet: a crash loses both."""
        return self._chains < self._terms.slots and self._settling < self._terms.slots

    async def _claim(self) -> Claim | None:
        """The next task. None as well when another process began to ask the same: by the next look that is known."""
        # No other claim of this process may be given the same slot, so it is not idle meanwhile.
        mine = [self._idle.pop()] if self._idle else []
        claim = None
        try:
            claim = await self._database.single(
                partial(
                    claims.claim,
                    provider=self.name,
                    terms=self._terms,
                    holder=self._holder,
                    idle=mine,
                    deadline=self._settings.task_deadline,
                    ttl=self._settings.task_cache_ttl,
                )
            )
        except IntegrityError:
            return None
        finally:
            if claim is None or claim.slot not in mine:
                self._idle += mine
        if claim is not None:
            await failpoints.reach("tasks.after_claim")
        return claim

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _chain(self, claim: Claim | None, started: float, stop: asyncio.Event) -> None:
        """Calls in one slot, one after the other; each answer is settled while the next call is under way."""
        try:
            while claim is not None:
                try:
                    outcome = await self._answer(claim, started)
                finally:
                    self._idle.append(claim.slot)
                claimed = asyncio.Event()
                if outcome is not None:
                    self._settling += 1
                    self._spawn(self._settle_apart(claim, outcome, claimed))
                try:
                    if stop.is_set() or self._settling >= self._terms.slots:
                        break
                    started, claim = time.monotonic(), await self._claim()
                finally:
                    claimed.set()
        except Unavailable as error:
            logger.warning("tasks.wait", provider=self.name, reason=str(error))
        except Exception:
            # A lease ends, and its task is settled as one whose call got lost.
            logger.exception("task.call_failed", provider=self.name)
        finally:
            self._chains -= 1
            self.wake()

    async def _settle_apart(self, claim: Claim, outcome: Outcome, claimed: asyncio.Event) -> None:
        """Settle, once the slot's next claim is made: both wait for the same disk, and a slot that waits costs more."""
        try:
            await claimed.wait()
            await self._settle(partial(settling.settle, claim=claim, outcome=outcome, settings=self._settings))
        except Exception:
            logger.exception("task.settle_failed", task_id=claim.task_id, provider=self.name)
        finally:
            self._settling -= 1
            self.wake()

    async def _answer(self, claim: Claim, started: float) -> Outcome | None:
        """What the provider says; None if the cache said it, and that is settled."""
        if claim.cached is not None:
            measures.cache_hits.inc()
            await self._settle(
                partial(settling.finish, claim=claim, data=claim.cached, settings=self._settings, from_cache=True)
            )
            await self._database.single(partial(claims.spare, claim=claim, holder=self._holder))
            return None
        if time.monotonic() - started > _SLOT_MARGIN.total_seconds() / 2:
            # Frozen, or kept waiting, since the claim: the slot may be another's before the call ends.
            return Busy("NOT_ASKED", timedelta(0), claim.operation_id)
        await failpoints.reach("tasks.before_call")
        with measures.calling(claim.provider):
            outcome = await self._provider.ask(Question(claim.task_type, claim.input, claim.operation_id))
        await failpoints.reach("tasks.after_call_before_finish")
        measures.count(claim.provider, outcome)
        return outcome

    async def _settle(self, work: Callable[[AsyncSession], Awaitable[None]]) -> None:
        """Bring the answer in, as often as it takes: it is paid."""

        async def settle(session: AsyncSession) -> None:
            await work(session)
            await failpoints.reach("tasks.before_commit")

        while True:
            try:
                await self._database.write(settle)
            except Unavailable as error:
                logger.warning("task.settle_postponed", provider=self.name, reason=str(error))
                await asyncio.sleep(lifecycle.jittered(_SETTLE_PAUSE).total_seconds())
            else:
                await failpoints.reach("tasks.after_commit")
                self._on_commit()
                self.wake()  # a task that asks the same may be waiting for this answer
                return

    async def _release(self) -> None:
        if self._idle:
            numbers, self._idle = self._idle, []
            await self._database.single(
                partial(claims.release, provider=self.name, holder=self._holder, numbers=numbers)
            )
