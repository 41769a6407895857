"""What each of Kafka's answers means for a message, a topic, or nobody: the mock answers as it is told."""

from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka.errors import for_code

from app.errors import BrokerUnavailable
from relay.outcomes import BatchRefused, Delivered, Refused, TopicUnavailable, Unknown
from relay.producer import InvalidRecordError
from tests.contract.carrying import DEADLINE, assert_true, delivered, messages
from tests.contract.stages import OnKafka, open_publisher
from tests.services.kafka import MockKafka

PRODUCE, INIT_PRODUCER_ID = 0, 22


@pytest.fixture
def kafka(mock_kafka: Callable[[], MockKafka]) -> MockKafka:
    kafka = mock_kafka()
    kafka.mock.create_topic("topic", 1)
    return kafka


async def test_a_producer_that_gets_no_id_at_once(kafka: MockKafka) -> None:
    """COORDINATOR_LOAD_IN_PROGRESS passes, CLUSTER_AUTHORIZATION_FAILED does not."""
    publisher = OnKafka(kafka).publisher
    kafka.mock.push_request_errors(INIT_PRODUCER_ID, [14, 31])
    with pytest.raises(BrokerUnavailable):
        await publisher.open()
    kafka.mock.push_request_errors(INIT_PRODUCER_ID, [14, 15])
    await publisher.open()
    sent = messages("topic", 3)
    assert delivered(await publisher.publish(sent, singly=(), deadline=DEADLINE)) == sent
    await publisher.close()


@pytest.fixture
async def stage(kafka: MockKafka) -> AsyncIterator[OnKafka]:
    stage = OnKafka(kafka)
    async with open_publisher(stage):
        yield stage


@pytest.mark.parametrize(
    ("code", "reason"), [(10, "MESSAGE_TOO_LARGE"), (18, "RECORD_LIST_TOO_LARGE"), (87, "INVALID_RECORD")]
)
async def test_what_concerns_a_message(kafka: MockKafka, stage: OnKafka, code: int, reason: str) -> None:
    kafka.mock.push_request_errors(PRODUCE, [code])
    sent = messages("topic", 3)
    outcomes = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    assert outcomes == [BatchRefused(sent, reason)]
    await stage.publisher.open()
    kafka.mock.push_request_errors(PRODUCE, [code])
    outcomes = await stage.publisher.publish(sent[:1], singly=(), deadline=DEADLINE)
    assert outcomes == [Refused(sent[0], reason)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-1, "UNKNOWN"),
        (17, "INVALID_TOPIC"),
        (29, "TOPIC_AUTHORIZATION_FAILED"),
        (31, "CLUSTER_AUTHORIZATION_FAILED"),
        (32, "INVALID_TIMESTAMP"),
        (42, "INVALID_REQUEST"),
        (44, "POLICY_VIOLATION"),
        (9999, "UNKNOWN"),
    ],
)
async def test_what_concerns_the_topic(kafka: MockKafka, stage: OnKafka, code: int, reason: str) -> None:
    kafka.mock.push_request_errors(PRODUCE, [code])
    sent = messages("topic", 3)
    (outcome,) = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    assert isinstance(outcome, TopicUnavailable)
    assert (outcome.topic, outcome.messages) == ("topic", sent)
    assert reason in outcome.reason.upper()


@pytest.mark.parametrize("code", [45, 46, 47, 59])
async def test_what_concerns_the_sequence_of_a_producer(kafka: MockKafka, stage: OnKafka, code: int) -> None:
    """OUT_OF_ORDER_SEQUENCE_NUMBER, DUPLICATE_SEQUENCE_NUMBER (which tells no offset), …: another one mends it."""
    kafka.mock.push_request_errors(PRODUCE, [code])
    sent = messages("topic", 3)
    (outcome,) = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    assert isinstance(outcome, Unknown)
    assert outcome.answered
    assert outcome.messages == sent
    await stage.publisher.open()
    assert delivered(await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)) == sent


@pytest.mark.parametrize("codes", [[6], [7], [19], [20], [5, 6, 19]])
async def test_what_passes_within_the_deadline_is_not_even_noticed(
    kafka: MockKafka, stage: OnKafka, codes: list[int]
) -> None:
    """NOT_LEADER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, …: the same is sent again with the same sequence."""
    kafka.mock.push_request_errors(PRODUCE, codes)
    sent = messages("topic", 3)
    outcomes = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    assert delivered(outcomes) == sent
    records = await stage.records("topic", at_least=3)
    assert len(records) == 3
    assert_true(outcomes, records)
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)


@pytest.mark.parametrize(("first", "unsure"), [(6, False), (19, False), (7, True), (20, True)])
async def test_what_is_refused_in_the_end_may_have_been_stored_before(
    kafka: MockKafka, stage: OnKafka, first: int, unsure: bool
) -> None:
    """After REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS_AFTER_APPEND no answer tells that it was not."""
    kafka.mock.push_request_errors(PRODUCE, [first, 29])
    sent = messages("topic", 3)
    (outcome,) = await stage.publisher.publish(sent, singly=(), deadline=DEADLINE)
    expected = Unknown(sent, "TOPIC_AUTHORIZATION_FAILED", answered=True)
    assert outcome == (expected if unsure else TopicUnavailable("topic", sent, "TOPIC_AUTHORIZATION_FAILED"))


def test_an_error_that_aiokafka_does_not_know_has_a_class() -> None:
    assert for_code(87) is InvalidRecordError
