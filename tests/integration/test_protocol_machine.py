"""Random histories, step by step, of the real statements; after each step all that the engine promises must hold."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from typing import TypeVar
from uuid import UUID

import hypothesis
import pytest
from hypothesis import HealthCheck, stateful
from hypothesis import strategies as st

from relay import delivery, statements
from relay.floor import Lane, Round, advance
from tests.operating import discard, pause, resume, retry
from tests.stepping import TOPICS, Stage

T = TypeVar("T")

_SLOTS, _WRITERS = 2, 3
_STRANDED = "SELECT m.id FROM outbox_messages AS m JOIN outbox_lanes AS l USING (lane) WHERE m.id <= l.floor"
_PLACES = """
    SELECT message_id, 'owed' AS place FROM outbox_messages UNION ALL SELECT message_id, 'parked' FROM outbox_parked
    UNION ALL SELECT message_id, 'dead' FROM outbox_dead_letters WHERE state <> 'retried'
    UNION ALL SELECT message_id, 'confirmed' FROM outbox_receipts
"""
_RECEIPTS = 'SELECT message_id, topic, "offset" FROM outbox_receipts'
_MISPLACED = """
    SELECT p.id FROM outbox_parked AS p LEFT JOIN outbox_dead_letters AS d ON d.id = p.behind
    JOIN outbox_lanes AS l ON l.lane = p.lane
    WHERE CASE WHEN p.behind IS NULL THEN NOT l.has_parked
        ELSE d.id IS NULL OR d.id > p.id OR d.topic <> p.topic OR d.key IS DISTINCT FROM p.key END
"""
_DEAD = "SELECT message_id FROM outbox_dead_letters WHERE state = 'dead' ORDER BY id"
_SHUT = "SELECT topic FROM outbox_topics WHERE paused_at IS NOT NULL OR closed_at IS NOT NULL OR refused_in_a_row > 0"
_PAUSE_IS_OVER = "UPDATE outbox_topics SET closed_until = clock_timestamp() WHERE closed_at IS NOT NULL"
_LEFT = "SELECT EXISTS (TABLE outbox_messages) OR EXISTS (TABLE outbox_parked)"

_BOUNDED = hypothesis.settings(
    max_examples=40,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
slots, writers = st.integers(0, _SLOTS - 1), st.integers(0, _WRITERS - 1)
texts = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 2, None]), st.sampled_from(TOPICS), st.integers(0, 7)), min_size=1, max_size=3
)
fates = st.sampled_from(["delivered", "delivered", "delivered", "lost", "stored", "broken", "unavailable"])


class Protocol(stateful.RuleBasedStateMachine):
    """Writers, slots, operators and Kafka, in any order."""

    loop: asyncio.AbstractEventLoop
    stage: Stage
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.run(self.stage.clear())
        self.broke = False

    def run(self, step: Coroutine[None, None, T]) -> T:
        try:
            return self.loop.run_until_complete(step)
        except BaseException:
            self.broke = True
            raise

    # Writers

    @stateful.rule(name=writers, early=st.booleans())
    def begin(self, name: int, early: bool) -> None:
        if name not in self.stage.writers:
            self.run(self.stage.begin(name, early=early))

    @stateful.rule(name=writers, chosen=texts)
    def add(self, name: int, chosen: list[tuple[int | None, str, int]]) -> None:
        async def add() -> None:
            stage = self.stage
            if name not in stage.writers:
                await stage.begin(name, early=False)
            if stage.writers[name].adding is None:
                keys = [None if number is None else stage.keys[number] for number, *_ in chosen]
                stage.add(name, [(key, topic, bad == 0) for key, (_, topic, bad) in zip(keys, chosen, strict=True)])
                await stage.waits(name)

        self.run(add())

    @stateful.rule(name=writers, rolls_back=st.integers(0, 4))
    def end(self, name: int, rolls_back: int) -> None:
        async def end() -> None:
            writer = self.stage.writers.get(name)
            if writer is None or writer.adding is None or not writer.adding.done():
                return
            await (self.stage.roll_back(name) if rolls_back == 0 else self.stage.commit(name))
            for other, each in self.stage.writers.items():
                if each.adding is not None:
                    await self.stage.waits(other)

        self.run(end())

    # Slots

    @stateful.rule(
        slot=slots, alone=st.booleans(), cut=st.integers(1, 4), last=st.booleans(), sent=st.tuples(fates, fates),
        batch=st.integers(1, 3), broken=st.integers(0, 1),
    )  # fmt: skip
    def go_on(
        self, slot: int, alone: bool, cut: int, last: bool, sent: tuple[str, str], batch: int, broken: int
    ) -> None:
        """The slot takes its next step: claim, fetch, publish, settle."""
        self.run(self._go_on(slot, alone, cut, last, dict(zip(TOPICS, sent, strict=True)), batch, broken))

    async def _go_on(
        self, slot: int, alone: bool, cut: int, last: bool, sent: dict[str, str], batch: int, broken: int
    ) -> None:
        stage = self.stage
        this = stage.rounds.get(slot)
        if this is None:
            await stage.claim(slot, alone=alone, cut=cut, last=last)
        elif this.fetched is None:
            await stage.fetch(slot)
        elif this.outcomes is None:
            stage.publish(slot, sent, batch=batch, broken=broken)
        else:
            await stage.settle(slot)

    @stateful.rule(slot=slots, frozen=st.booleans())
    def lose(self, slot: int, frozen: bool) -> None:
        this = self.stage.rounds.get(slot)
        if this is not None and not this.lost:
            self.run(self.stage.lose(slot, frozen=frozen))

    # Operators and time

    @stateful.rule(topic=st.sampled_from(TOPICS))
    def pause_a_topic(self, topic: str) -> None:
        self.run(pause(self.url, topic))

    @stateful.rule(topic=st.sampled_from(TOPICS))
    def resume_a_topic(self, topic: str) -> None:
        self.run(resume(self.url, topic))

    @stateful.rule()
    def end_pauses(self) -> None:
        self.run(self.stage.watcher.execute(_PAUSE_IS_OVER))

    @stateful.rule(which=st.integers(0, 3), mend=st.booleans(), keep=st.integers(0, 3))
    def decide(self, which: int, mend: bool, keep: int) -> None:
        self.run(self._decide(which, mend=mend, keep=keep > 0))

    async def _decide(self, which: int, *, mend: bool, keep: bool) -> bool:
        """Retry or discard a dead letter. Was there one?"""
        dead = [row[0] for row in await self.stage.watcher.fetch(_DEAD)]
        if not dead:
            return False
        letter = next(one for one in self.stage.committed if one.message_id == dead[which % len(dead)])
        if keep:
            self.stage.bad -= {letter.message_id} if mend else set()
            await retry(self.url, letter)
        else:
            self.stage.free.add(letter.message_id)
            await discard(self.url, letter)
        return True

    # What must hold

    @stateful.invariant()
    def nothing_is_lost_stranded_or_out_of_order(self) -> None:
        self.run(self._judge())

    async def _judge(self) -> None:
        stage, watcher = self.stage, self.stage.watcher
        assert not await watcher.fetch(_STRANDED), "below the floor"
        assert not await watcher.fetch(_MISPLACED), "parked where nobody looks for it"
        places = defaultdict(list)
        for message_id, place in await watcher.fetch(_PLACES):
            places[message_id].append(place)
        by_id = {one.message_id: one for one in stage.committed}
        assert places.keys() == by_id.keys(), "lost or invented"
        assert all(len(each) == 1 for each in places.values()), "in two places"
        for message_id, topic, offset in await watcher.fetch(_RECEIPTS):
            assert stage.records[topic][offset].message_id == str(message_id), "a receipt lies"
        for topic, records in stage.records.items():
            self._judge_order(topic, [UUID(record.message_id) for record in records])

    def _judge_order(self, topic: str, arrived: list[UUID]) -> None:
        """First occurrences, per key, as they were committed; without repeats if nothing failed."""
        first = list(dict.fromkeys(arrived))
        assert self.stage.failed or len(first) == len(arrived), "repeated though nothing failed"
        by_id = {one.message_id: one for one in self.stage.committed}
        for key in self.stage.keys:
            due = [one for one in self.stage.committed if (one.topic, one.key) == (topic, key)]
            assert [one.id for one in due] == sorted(one.id for one in due), "ids are not in the order of commits"
            came = [by_id[one] for one in first if by_id[one].key == key]
            expected = [one for one in due if one in came or one.message_id not in self.stage.free]
            assert came == expected[: len(came)], "out of order"

    def teardown(self) -> None:
        """Without faults and with all dead letters mended, everything arrives."""
        if not self.broke:
            self.run(self._come_to_rest())

    async def _come_to_rest(self) -> None:
        stage = self.stage
        while stage.writers:
            ready = [name for name, each in stage.writers.items() if each.adding is None or not await stage.waits(name)]
            assert ready, "writers wait for each other"
            await (stage.commit(ready[0]) if stage.writers[ready[0]].adding else stage.roll_back(ready[0]))
        stage.bad.clear()
        for _ in range(200):
            for row in await stage.watcher.fetch(_SHUT):
                await resume(self.url, row[0])
            decided = await self._decide(0, mend=True, keep=True)
            for slot in range(_SLOTS):
                await self._go_on(slot, False, 4, False, dict.fromkeys(TOPICS, "delivered"), 3, 0)  # noqa: FBT003
            if not (decided or stage.rounds or await stage.watcher.fetchval(_LEFT)):
                break
        assert not await stage.watcher.fetchval(_LEFT), "it does not come to rest"
        await self._judge()


@pytest.fixture
def machine(database_url: str) -> Iterator[type[Protocol]]:
    """The machine on a database, on an event loop of its own: hypothesis calls it from outside any."""
    loop = asyncio.new_event_loop()
    stage = Stage(database_url)
    loop.run_until_complete(stage.open(_SLOTS))
    yield type("Protocol", (Protocol,), {"loop": loop, "stage": stage, "url": database_url})
    loop.run_until_complete(stage.close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _settings() -> hypothesis.settings:
    """Few histories, always the same; with `--hypothesis-profile=long` as many as that says."""
    if hypothesis.settings.get_current_profile_name() != "long":
        return _BOUNDED
    return hypothesis.settings(parent=hypothesis.settings.get_profile("long"), **{"deadline": None})


def test_any_history_keeps_the_promise(machine: type[Protocol]) -> None:
    stateful.run_state_machine_as_test(machine, settings=_settings())
