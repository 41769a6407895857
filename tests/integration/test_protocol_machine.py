"""Random histories, step by step, of the real statements; after each step all that the engine promises must hold."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from typing import NamedTuple, TypeVar
from uuid import UUID

import hypothesis
import pytest
from hypothesis import HealthCheck, stateful
from hypothesis import strategies as st

from relay import delivery, fetching
from relay.floor import Lane, Round
from tests.operating import discard, pause, resume, retry
from tests.stepping import TOPICS, Stage

T = TypeVar("T")

_SLOTS, _WRITERS = 2, 3
# Where each message is; and, which must not be, below the floor, or parked where nobody looks for it.
_PLACES = """
    SELECT message_id, 'owed', topic, NULL::bigint FROM outbox_messages
    UNION ALL SELECT message_id, 'parked', topic, NULL::bigint FROM outbox_parked
    UNION ALL SELECT message_id, 'dead', topic, NULL::bigint FROM outbox_dead_letters WHERE state <> 'retried'
    UNION ALL SELECT message_id, 'confirmed', topic, "offset" FROM outbox_receipts
    UNION ALL
    SELECT m.message_id, 'stranded', m.topic, NULL::bigint
    FROM outbox_messages AS m JOIN outbox_lanes AS l USING (lane) WHERE m.id <= l.floor
    UNION ALL
    SELECT p.message_id, 'forgotten', p.topic, NULL::bigint
    FROM outbox_parked AS p JOIN outbox_lanes AS l USING (lane) LEFT JOIN outbox_dead_letters AS d ON d.id = p.behind
    WHERE CASE WHEN p.behind IS NULL THEN NOT l.has_parked
        ELSE d.id IS NULL OR d.id > p.id OR d.topic <> p.topic OR d.key IS DISTINCT FROM p.key END
"""
_DEAD = "SELECT message_id FROM outbox_dead_letters WHERE state = 'dead' ORDER BY id"
_SHUT = "SELECT topic FROM outbox_topics WHERE paused_at IS NOT NULL OR closed_at IS NOT NULL OR refused_in_a_row > 0"
_PAUSE_IS_OVER = "UPDATE outbox_topics SET closed_until = clock_timestamp() WHERE closed_at IS NOT NULL"
_LEFT = "SELECT EXISTS (TABLE outbox_messages) OR EXISTS (TABLE outbox_parked)"

_BOUNDED = hypothesis.settings(
    max_examples=12,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
slots, writers = st.integers(0, _SLOTS - 1), st.integers(0, _WRITERS - 1)
text = st.tuples(st.sampled_from([0, 0, 1, 2, None]), st.sampled_from(TOPICS), st.integers(0, 4))
texts, many_texts = st.lists(text, min_size=1, max_size=3), st.lists(text, min_size=4, max_size=8)
fates = st.sampled_from(["delivered", "delivered", "delivered", "lost", "stored", "broken", "unavailable"])


class Step(NamedTuple):
    """How a slot takes its next step, whichever that is: its claim, and how its batches end."""

    alone: bool = False
    cut: int = 4
    last: bool = False
    fates: tuple[str, str] = ("delivered", "delivered")
    batch: int = 3
    broken: int = 0


steps = st.builds(
    Step,
    alone=st.booleans(),
    cut=st.integers(1, 4),
    last=st.booleans(),
    fates=st.tuples(fates, fates),
    batch=st.integers(1, 3),
    broken=st.integers(0, 1),
)


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
                stage.add(name, self._texts(chosen))
                await stage.waits(name)

        self.run(add())

    @stateful.initialize(chosen=many_texts)
    def fill(self, chosen: list[tuple[int | None, str, int]]) -> None:
        self.write(chosen)

    @stateful.rule(chosen=texts)
    def write(self, chosen: list[tuple[int | None, str, int]]) -> None:
        """A transaction that nobody waits for, all at once; it may have to wait itself, and then gives up."""

        async def write() -> None:
            stage = self.stage
            await stage.begin(_WRITERS, early=False)
            stage.add(_WRITERS, self._texts(chosen))
            await (stage.roll_back(_WRITERS) if await stage.waits(_WRITERS) else stage.commit(_WRITERS))

        self.run(write())

    def _texts(self, chosen: list[tuple[int | None, str, int]]) -> list[tuple[bytes | None, str, bool]]:
        keys = self.stage.keys
        return [(None if key is None else keys[key], topic, bad == 0) for key, topic, bad in chosen]

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

    @stateful.rule(slot=slots, step=steps, times=st.integers(1, 4))
    def go_on(self, slot: int, step: Step, times: int) -> None:
        """The slot takes its next steps: claim, fetch, publish, settle."""
        for _ in range(times):
            self.run(self._go_on(slot, step))

    @stateful.rule(slot=slots, step=steps, times=st.integers(1, 3))
    def work(self, slot: int, step: Step, times: int) -> None:
        """The slot ends its round, and does some more."""
        for _ in range(4 * times):
            self.run(self._go_on(slot, step))

    async def _go_on(self, slot: int, step: Step) -> None:
        stage = self.stage
        this = stage.rounds.get(slot)
        if this is None:
            await stage.claim(slot, alone=step.alone, cut=step.cut, last=step.last)
        elif this.fetched is None:
            await stage.fetch(slot)
        elif this.outcomes is None:
            stage.publish(slot, dict(zip(TOPICS, step.fates, strict=True)), batch=step.batch, broken=step.broken)
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
        stage = self.stage
        places = defaultdict(set)
        for message_id, place, topic, offset in await stage.watcher.fetch(_PLACES):
            places[message_id].add(place)
            if place == "confirmed":
                assert stage.records[topic][offset].message_id == str(message_id), "a receipt lies"
        assert places.keys() == {one.message_id for one in stage.committed}, "lost or invented"
        for message_id, found in places.items():
            assert len(found) == 1, f"{message_id} is {found}"
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
                await self._go_on(slot, Step())
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
    return hypothesis.settings.get_profile("long")


def _breaks(machine: type[Protocol]) -> None:
    """The first history that breaks is enough; it need not be the shortest."""
    found = hypothesis.settings(_BOUNDED, max_examples=200, phases=[hypothesis.Phase.generate])
    with pytest.raises(AssertionError):
        stateful.run_state_machine_as_test(machine, settings=found)


def test_any_history_keeps_the_promise(machine: type[Protocol]) -> None:
    stateful.run_state_machine_as_test(machine, settings=_settings())


def test_a_floor_that_follows_what_was_seen_is_found(machine: type[Protocol], monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(lane: Lane, done: Round) -> Lane:
        return lane._replace(floor=max(lane.floor, done.last or 0), seen=max(lane.seen, done.last or 0))

    monkeypatch.setattr(delivery, "advance", advance)
    _breaks(machine)


def test_a_fetch_that_holds_nothing_behind_dead_letters_is_found(
    machine: type[Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "d.id < m.id"
    assert rule in fetching.FETCH
    monkeypatch.setattr(fetching, "FETCH", fetching.FETCH.replace(rule, "false"))
    _breaks(machine)
