"""The auditor on what consumers read: the inbox knows each input below the committed offsets."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from app.audit import Intake, Kind, Report, audit
from app.cli.verify import intakes_of
from tests.auditing import found
from tests.consuming import Consuming, answered, consuming, kafka_settings, lag, producing, running, send
from tests.engine import empty
from tests.raw_batches import batch, flawed, send_raw
from tests.relaying import running as relaying
from tests.services.kafka import Kafka
from tests.waiting import until

_REQUESTS = 20


@dataclass
class Scene:
    kafka: Kafka
    users: Consuming

    @property
    def intake(self) -> Intake:
        return intakes_of(self.users.settings)[0]

    async def consume(self, answers: int) -> None:
        """Until so many answers are owed and Kafka knows that all was read."""
        async with running(self.users.consumer()):
            await answered(self.users, answers)

            async def told() -> bool:
                return await lag(self.kafka, self.users) == 0

            await until(told)

    async def deliver(self) -> None:
        settings = self.users.settings
        assert settings.database_url is not None
        async with relaying(settings):
            await empty(settings.database_url.get_secret_value())

    async def audited(self) -> Report:
        return await audit(self.users.settings, intakes=[self.intake])


@pytest.fixture
async def scene(database_url: str, kafka: Kafka) -> AsyncIterator[Scene]:
    settings = await kafka_settings(kafka) | {
        "users_responses_topic": await kafka.create_topic(partitions=1),
        "users_dead_letters_topic": await kafka.create_topic(partitions=1),
    }
    async with consuming(database_url, **settings) as users:
        yield Scene(kafka, users)


async def test_all_that_was_read_is_in_the_inbox(scene: Scene) -> None:
    await send(scene.kafka, scene.users, range(_REQUESTS))
    await send(scene.kafka, scene.users, range(5))  # repeats
    await scene.consume(_REQUESTS)
    report = await scene.audited()
    assert (report.findings, report.ok) == ((), True)
    (counts,) = report.intakes
    assert (counts.consumer, counts.checked, counts.too_old) == (scene.users.settings.users_group, _REQUESTS + 5, 0)
    # What is not committed yet may be in the inbox, or not.
    await send(scene.kafka, scene.users, range(100, 110))
    assert (await scene.audited()).intakes == report.intakes


async def test_a_consumer_that_has_read_nothing_has_no_gap(scene: Scene) -> None:
    await send(scene.kafka, scene.users, range(_REQUESTS))
    report = await scene.audited()
    assert (report.findings, report.intakes[0].checked) == ((), 0)


@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by place"])
async def test_an_input_that_the_inbox_does_not_know_is_a_gap(scene: Scene, ids: bool) -> None:
    await send(scene.kafka, scene.users, range(_REQUESTS), ids=ids)
    await scene.consume(_REQUESTS)
    gone = await scene.users.connection.fetch(
        "DELETE FROM inbox_messages WHERE message_id IN (SELECT message_id FROM inbox_messages LIMIT 2) "
        "RETURNING message_id"
    )
    report = await scene.audited()
    assert (found(report), report.ok) == ({Kind.GAP: len(gone)}, False)
    topic = scene.users.settings.users_requests_topic
    assert {example.topic for example in report.findings[0].examples} == {topic}
    assert len({(each.partition, each.offset) for each in report.findings[0].examples}) == len(gone) == 2


async def test_another_content_under_the_same_id_is_a_gap_unless_it_was_dead_lettered(scene: Scene) -> None:
    await send(scene.kafka, scene.users, [1])
    async with producing(scene.kafka) as producer:
        headers = [("ce_id", b"1"), ("ce_source", b"/test")]
        topic = scene.users.settings.users_requests_topic
        await producer.send_and_wait(topic, b"<something-else/>", key=b"1", headers=headers)
    await scene.consume(2)  # the answer, and the dead letter
    assert (await scene.audited()).findings == ()
    await scene.users.connection.execute("DELETE FROM inbox_messages WHERE message_id LIKE 'reused:%'")
    assert found(await scene.audited()) == {Kind.GAP: 1}


async def test_what_the_client_library_cannot_read_is_compared_like_the_rest(scene: Scene) -> None:
    topic = scene.users.settings.users_requests_topic
    await send(scene.kafka, scene.users, range(3))
    await send_raw(scene.kafka, topic, 0, batch([flawed(b"<1"), flawed(b"<2", ("ce_id", b"2"))]))
    await scene.consume(3 + 4)
    await scene.deliver()
    report = await scene.audited()
    assert (report.findings, report.intakes[0].checked) == ((), 5)
    await scene.users.connection.execute("DELETE FROM inbox_messages WHERE outcome = 'dead_lettered'")
    assert found(await scene.audited()) == {Kind.GAP: 2}


async def test_inputs_older_than_the_inbox_remembers_are_beyond_judgement(scene: Scene) -> None:
    await send(scene.kafka, scene.users, range(_REQUESTS))
    await scene.consume(_REQUESTS)
    await scene.users.connection.execute("DELETE FROM inbox_messages")
    scene.users.settings = scene.users.settings.model_copy(update={"inbox_retention": timedelta(0)})
    report = await scene.audited()
    assert (report.findings, report.intakes[0].checked, report.intakes[0].too_old) == ((), 0, _REQUESTS)


async def test_dead_letters_are_compared_with_their_inputs(scene: Scene) -> None:
    settings = scene.users.settings
    contents = [b"no XML at all", b"<neither/>", b""]
    async with producing(scene.kafka) as producer:
        for content in contents:
            await producer.send_and_wait(settings.users_requests_topic, content, key=b"key")
    await scene.consume(6)  # of each the answer and the dead letter
    await scene.deliver()
    assert (await scene.audited()).findings == ()
    async with producing(scene.kafka) as producer:
        headers = [
            ("dlq.consumer", settings.users_group.encode()),
            ("dlq.topic", settings.users_requests_topic.encode()),
        ]
        (record, *_) = await scene.kafka.records(settings.users_dead_letters_topic, at_least=3)
        await producer.send_and_wait(
            settings.users_dead_letters_topic,
            b"not what it was",
            key=record.key,
            headers=[each for each in record.headers if not each[0].startswith("ce_")],
        )
        await producer.send_and_wait(settings.users_dead_letters_topic, b"whose?", headers=headers)
    report = await scene.audited()
    assert (found(report), report.ok) == ({Kind.UNFAITHFUL_DEAD_LETTER: 2}, False)
    assert {example.offset for example in report.findings[0].examples} == {3, 4}


async def test_a_dead_letter_that_had_to_be_cut_says_so_truly(database_url: str, kafka: Kafka) -> None:
    settings = await kafka_settings(kafka) | {
        "users_responses_topic": await kafka.create_topic(partitions=1),
        "users_dead_letters_topic": await kafka.create_topic(partitions=1),
        "message_max_bytes": 4_000,
    }
    async with consuming(database_url, **settings) as users:
        scene = Scene(kafka, users)
        async with producing(kafka) as producer:
            await producer.send_and_wait(users.settings.users_requests_topic, b"x" * 9_000, key=b"key")
        await scene.consume(2)
        await scene.deliver()
        (record,) = await kafka.records(users.settings.users_dead_letters_topic, at_least=1)
        assert dict(record.headers)["dlq.cut"] == b"value"
        assert (await scene.audited()).findings == ()
        headers = [
            (name, b"0" * 64 if name == "dlq.value-sha256" else value)
            for name, value in record.headers
            if not name.startswith("ce_")
        ]
        async with producing(kafka) as producer:
            topic = users.settings.users_dead_letters_topic
            await producer.send_and_wait(topic, record.value, key=record.key, headers=headers)
        assert found(await scene.audited()) == {Kind.UNFAITHFUL_DEAD_LETTER: 1}
