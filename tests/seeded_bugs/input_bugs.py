"""Mistakes of those who take work in: consumers and the API."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncSession

from app import outbox
from app.api import idempotency
from app.api.idempotency import Once, Work
from app.kafka.batch import Batches
from app.kafka.consumer import _Member
from app.kafka.input import coordinates
from app.outbox import OutboxMessage
from app.users.consumer import UsersHandler
from tests.consuming import consuming, record, request_xml, user_xml
from tests.engine import empty
from tests.failpoints import Action, Fault
from tests.points import answering, ingesting
from tests.relaying import hurried, running
from tests.seeded_bugs.bug import Bench, Bug


def commit_the_offset_first(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    take = _Member._take_batch

    async def hasty(self: _Member[Any], fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> bool:
        for tp, found in fetched.items():
            self._offsets.done(tp, found[-1].offset)
        await self._offsets.commit()
        return await take(self, fetched)

    monkeypatch.setattr(_Member, "_take_batch", hasty)


def remember_apart(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    remember = Batches._remember

    async def apart(self: Batches[Any], _session: AsyncSession, items: Sequence[Any]) -> Any:
        async with self._sessions.begin() as own:
            return await remember(self, own, items)

    monkeypatch.setattr(Batches, "_remember", apart)


def remember_the_place(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    monkeypatch.setattr(UsersHandler, "identify", lambda _self, record, _content: coordinates(record))


def produce_dead_letters_directly(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    add = outbox.add

    async def add_or_produce(session: AsyncSession, *messages: OutboxMessage) -> None:
        letters = [message for message in messages if message.type.endswith("dead_lettered")]
        producer = AIOKafkaProducer(bootstrap_servers=bench.kafka.bootstrap_servers)
        await producer.start()
        for letter in letters:
            await producer.send_and_wait(letter.topic, letter.payload, headers=list(letter.headers))
        await producer.stop()
        await add(session, *(message for message in messages if message not in letters))

    monkeypatch.setattr(outbox, "add", add_or_produce)


def keep_the_answer_apart(monkeypatch: pytest.MonkeyPatch, _bench: Bench) -> None:
    async def write(self: Once, work: Work) -> Response:
        identity = self.identity
        assert identity is not None

        async def find(session: AsyncSession) -> Any:
            return await idempotency._find(session, identity)

        kept = await self.database.read(find)
        if kept is not None:
            return idempotency._response(idempotency.Replayed(kept))
        answer = await self.database.write(work)

        async def keep(session: AsyncSession) -> None:
            await idempotency._keep(session, identity, answer, self.ttl)

        await self.database.write(keep)
        return idempotency._response(idempotency.Done(answer))

    monkeypatch.setattr(Once, "write", write)


async def die_before_the_commit(bench: Bench) -> None:
    """A consumer dies when its transaction is complete but for the commit."""
    await ingesting.meet(Fault("ingest.before_commit", Action.CANCEL), bench.database_url, bench.kafka)


async def send_a_copy(bench: Bench) -> None:
    """A request comes twice, from two partitions."""
    async with consuming(bench.database_url) as users:
        copies = [
            record(request_xml(user_xml()), partition=number, offset=7 + number, ce_id=b"1", ce_source=b"/test")
            for number in range(2)
        ]
        for copy in copies:
            await users.batches().handle([copy])
        replies = await users.replies()
        assert len(replies) == 1, f"{len(replies)} replies to one request"


async def die_with_a_dead_letter(bench: Bench) -> None:
    """A consumer dies with a dead letter in its hands; in Kafka there must be one, as the input was one."""
    topic = await bench.kafka.create_topic()
    fault = Fault("dlq.after_outbox_row", Action.CANCEL)
    topics = {"users_dead_letters_topic": topic, "users_responses_topic": await bench.kafka.create_topic()}
    await ingesting.meet(fault, bench.database_url, bench.kafka, judged=False, **topics)
    async with running(hurried(bench.database_url, bench.kafka.bootstrap_servers)):
        await empty(bench.database_url)
    letters = await bench.kafka.records(topic, at_least=0)
    assert len(letters) == 1, f"{len(letters)} dead letters of one input"


async def die_after_the_commit(bench: Bench) -> None:
    """A request dies when its work is committed and its answer not yet given."""
    await answering.meet(Fault("api.after_commit", Action.CANCEL), bench.database_url)


BUGS = (
    Bug(
        "offset-first",
        "The offset is committed before the database.",
        "I12 offsets follow commits, I10 conservation at ingest",
        "`not_ahead`: what lies below an offset is remembered",
        "is ahead",
        commit_the_offset_first,
        die_before_the_commit,
    ),
    Bug(
        "inbox-apart",
        "The inbox is written in a transaction of its own.",
        "I11 effect once",
        "`judge` of requests: one user for each",
        "effects are lost",
        remember_apart,
        die_before_the_commit,
    ),
    Bug(
        "inbox-by-offset",
        "The inbox knows an input by its place instead of its id.",
        "I11 effect once",
        "one reply to a request that came twice",
        "2 replies to one request",
        remember_the_place,
        send_a_copy,
    ),
    Bug(
        "direct-dead-letter",
        "A dead letter is produced directly instead of through the outbox.",
        "I6 nothing invented, I14 faithful dead letters",
        "one dead letter in the topic for one input",
        "2 dead letters of one input",
        produce_dead_letters_directly,
        die_with_a_dead_letter,
    ),
    Bug(
        "answer-apart",
        "The answer of an Idempotency-Key is committed apart from its row.",
        "I1 nothing acknowledged is lost, I4 unknown is resolvable",
        "`stored`: row, message and answer are there, or none",
        "half of it",
        keep_the_answer_apart,
        die_after_the_commit,
    ),
)
