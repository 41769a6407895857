"""Mistakes of a relay, and of those who write into its outbox."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.outbox import writer
from relay import delivery, fetching, store
from relay.floor import Lane, Round, advance
from relay.outcomes import Outcome, OwedMessage, Unknown
from relay.producer import abandon
from relay.publisher import KafkaPublisher, _Attempt, _Part
from relay.slot import Slot
from tests.seeded_bugs.bug import Bench, Bug
from tests.seeded_bugs.relay_trials import (
    between_claim_and_fetch,
    commit_late,
    die_before_sending,
    refuse_the_first,
    refuse_what_is_too_large,
    stay_silent_until_after_the_deadline,
    write_one_key_twice,
)


def delete_before_the_answer(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    publish = Slot._publish

    async def hasty(self: Slot, messages: Sequence[OwedMessage], lanes: Sequence[Lane]) -> Sequence[Outcome]:
        connection = await store.connect(self._settings)
        ids = [message.id for message in messages]
        await connection.execute("DELETE FROM outbox_messages WHERE id = ANY($1::bigint[])", ids)
        await connection.close(timeout=5)
        return await publish(self, messages, lanes)

    monkeypatch.setattr(Slot, "_publish", hasty)


def go_by_the_last_id(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    def cursor(lane: Lane, done: Round) -> Lane:
        return lane._replace(floor=max(lane.floor, done.last or 0), seen=max(lane.seen, done.last or 0))

    monkeypatch.setattr(delivery, "advance", cursor)


def take_the_end_of_the_snapshot(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    for name in "FETCH", "PLAIN", "PLAIN_UNCOUNTED":
        fetch = getattr(fetching, name)
        assert "pg_snapshot_xmin" in fetch
        monkeypatch.setattr(fetching, name, fetch.replace("pg_snapshot_xmin", "pg_snapshot_xmax"))


def take_the_xid_of_the_same_claim(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    def seen_at_once(lane: Lane, done: Round) -> Lane:
        return advance(lane._replace(seen=max(lane.seen, done.last or 0)), done)

    monkeypatch.setattr(delivery, "advance", seen_at_once)


def send_all_at_once(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    send = _Attempt._send

    async def hasty(self: _Attempt, leader: int, parts: list[_Part]) -> None:
        for part in parts:
            for message in part.messages:
                await send(self, leader, [_Part(part.topic, [message], part.partition)])
            part.start = part.stop = len(part.messages)

    monkeypatch.setattr(_Attempt, "_send", hasty)


def publish_after_the_deadline(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    run = _Attempt.run

    async def go_on(self: _Attempt, messages: Sequence[OwedMessage], deadline: timedelta) -> list[Outcome]:
        going_on = asyncio.create_task(run(self, messages, timedelta(minutes=1)))
        bench.stack.callback(going_on.cancel)
        done, _ = await asyncio.wait([going_on], timeout=deadline.total_seconds())
        return going_on.result() if done else [Unknown(messages, "TimeoutError")]

    async def forget(self: KafkaPublisher) -> None:
        if self._producer is not None:
            bench.stack.push_async_callback(abandon, self._producer)
            self._producer = None

    monkeypatch.setattr(_Attempt, "run", go_on)
    monkeypatch.setattr(KafkaPublisher, "close", forget)


def keep_the_producer(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    publish, close = KafkaPublisher.publish, KafkaPublisher.close
    publishing: set[KafkaPublisher] = set()

    async def publish_on(
        self: KafkaPublisher, messages: Sequence[OwedMessage], *, singly: Collection[str], deadline: timedelta
    ) -> list[Outcome]:
        publishing.add(self)
        try:
            return await publish(self, messages, singly=singly, deadline=deadline)
        finally:
            publishing.discard(self)

    async def close_at_the_end(self: KafkaPublisher) -> None:
        if self not in publishing:
            await close(self)

    monkeypatch.setattr(KafkaPublisher, "publish", publish_on)
    monkeypatch.setattr(KafkaPublisher, "close", close_at_the_end)


def take_no_lock_of_the_key(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    lock = "pg_advisory_xact_lock(CAST(:namespace AS integer), bucket)"
    statement = writer._ADD.text
    assert lock in statement
    monkeypatch.setattr(writer, "_ADD", text(statement.replace(lock, "CAST(:namespace AS integer) + bucket")))


BUGS = (
    Bug(
        "deleted-before-the-answer",
        "A row is deleted before the broker has confirmed it.",
        "I5 nothing stays behind",
        "`judge`: each message has one end",
        "one of them must be 1",
        delete_before_the_answer,
        die_before_sending,
    ),
    Bug(
        "cursor",
        "A lane goes on after the last id it has seen, instead of by what is still there.",
        "I5 nothing stays behind",
        "`empty`: nothing is owed",
        "nothing_is_owed is still not so",
        go_by_the_last_id,
        commit_late,
    ),
    Bug(
        "floor-ignores-transactions",
        "The floor goes by the end of the snapshot, as if nobody had begun before it.",
        "I5 nothing stays behind",
        "`empty`: nothing is owed",
        "nothing_is_owed is still not so",
        take_the_end_of_the_snapshot,
        commit_late,
    ),
    Bug(
        "floor-of-the-same-claim",
        "An id is marked with the transaction that claimed it, before which others may have begun.",
        "I5 nothing stays behind",
        "`empty`: nothing is owed",
        "nothing_is_owed is still not so",
        take_the_xid_of_the_same_claim,
        between_claim_and_fetch,
    ),
    Bug(
        "gathered-sends",
        "All messages of a partition are sent at once, none waits for the answer to the one before it.",
        "I8 per-key order",
        "`judge`: first occurrences in the order of ids",
        "came after",
        send_all_at_once,
        refuse_the_first,
    ),
    Bug(
        "published-after-the-deadline",
        "A publish goes on after its deadline with a producer that is forgotten, and sends when the broker is back.",
        "I9 bounded repeats",
        "`judge`: no more repeats than were in flight",
        "repeats, at most 0",
        publish_after_the_deadline,
        stay_silent_until_after_the_deadline,
    ),
    Bug(
        "kept-producer",
        "A producer is used again after an error that cost it a sequence number.",
        "I17 self-heal",
        "`empty`: nothing is owed",
        "nothing_is_owed is still not so",
        keep_the_producer,
        refuse_what_is_too_large,
        real_kafka=True,
    ),
    Bug(
        "no-key-lock",
        "Writers of one key do not wait for each other, so that ids are drawn in another order than committed.",
        "I8 per-key order",
        "`judge`: first occurrences in the order of ids",
        "came after",
        take_no_lock_of_the_key,
        write_one_key_twice,
    ),
)
