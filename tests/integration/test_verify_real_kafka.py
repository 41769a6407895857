"""The auditor where logs have holes: transactions, deleted records, compaction."""

from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from app.audit import Kind
from app.kafka.log import Log
from relay.partitioner import partition_of
from tests.auditing import PARTITIONS, Scene, found, only, scene_on
from tests.services.kafka import Kafka, RealKafka
from tests.waiting import until

pytestmark = pytest.mark.real_kafka

_MARKER = 4
"""The offset behind one record and three of a transaction: nothing ever stands there for anybody."""


@pytest.fixture
async def scene(database_url: str, kafka: Kafka) -> AsyncIterator[Scene]:
    async with scene_on(database_url, kafka) as scene:
        yield scene


async def _transaction(scene: Scene, *, abort: bool) -> None:
    """Three records of somebody else, and a marker, at the end of partition 0."""
    producer = AIOKafkaProducer(bootstrap_servers=scene.kafka.bootstrap_servers, transactional_id=f"{scene.topic}-tx")
    await producer.start()
    try:
        await producer.begin_transaction()
        for _ in range(3):
            await producer.send_and_wait(scene.topic, b"not ours", key=b"theirs", partition=0)
        async with Log(scene.settings) as log:
            end = (await log.bounds(scene.topic, 0)).end
            await (producer.abort_transaction() if abort else producer.commit_transaction())

            async def marked() -> bool:
                return (await log.bounds(scene.topic, 0)).end > end

            # Kafka answers before it writes the marker, and another record could come first.
            await until(marked)
    finally:
        await producer.stop()


async def test_markers_are_no_records_and_what_they_abort_is_foreign(scene: Scene) -> None:
    added = await scene.add(*((None, b"%d" % number) for number in range(6)))
    await scene.deliver_by_hand(added[:3])
    await _transaction(scene, abort=True)
    await scene.deliver_by_hand(added[3:5])
    await _transaction(scene, abort=False)
    await scene.deliver_by_hand(added[5:])
    report = await scene.audited(max_repeats=0)
    assert report.findings == ()
    (counts,) = report.topics
    assert (counts.records, counts.receipts, counts.foreign) == (12, 6, 6)


async def test_an_open_transaction_of_somebody_else_hides_nothing(scene: Scene) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=scene.kafka.bootstrap_servers, transactional_id=f"{scene.topic}-tx")
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(scene.topic, b"not ours", partition=0)
        await scene.deliver_by_hand(await scene.add((None, b"1"), (None, b"2")))
        report = await scene.audited(max_repeats=0)
        assert (report.findings, report.topics[0].records) == ((), 3)
    finally:
        await producer.abort_transaction()
        await producer.stop()


async def test_a_receipt_for_which_there_is_no_record_inside_the_log_is_a_loss(scene: Scene) -> None:
    before, lost, after = await scene.add((None, b"1"), (None, b"2"), (None, b"3"))
    await scene.deliver_by_hand([before])
    await _transaction(scene, abort=True)
    await scene.deliver_by_hand([after])
    await scene.settle(lost, (0, _MARKER))
    only(await scene.audited(), Kind.LOST, (lost, (0, _MARKER)))


async def test_what_retention_has_removed_is_no_longer_there(scene: Scene, kafka: Kafka) -> None:
    added = await scene.add(*((None, b"%d" % number) for number in range(10)))
    await scene.deliver_by_hand(added)
    assert isinstance(kafka, RealKafka)
    async with kafka.admin() as admin:
        await admin.delete_records({TopicPartition(scene.topic, 0): RecordsToDelete(before_offset=4)})
    report = await scene.audited(max_repeats=0)
    assert report.findings == ()
    assert (report.topics[0].records, report.topics[0].no_longer_there) == (6, 4)


async def test_what_a_compacted_topic_lacks_is_no_longer_there(scene: Scene, kafka: Kafka) -> None:
    scene.topic = await kafka.create_topic(partitions=PARTITIONS, cleanup_policy="compact")
    keys = [key for key in map(str.encode, "abcdefghijklmnop") if partition_of(key, PARTITIONS) == 0]
    before, lost, after = await scene.add(*((key, b"value") for key in keys[:3]))
    await scene.deliver_by_hand([before])
    await _transaction(scene, abort=True)  # whatever makes a hole
    await scene.deliver_by_hand([after])
    await scene.settle(lost, (0, _MARKER))
    report = await scene.audited()
    assert (report.findings, report.topics[0].no_longer_there) == ((), 1)


async def test_large_topics_are_read_to_their_ends(scene: Scene) -> None:
    """Several answers, several pieces of receipts, and a few repeats in the middle."""
    count = 30_000
    await scene.ledger.fill(scene.topic, messages=count, keys=500, size=400)
    await scene.deliver()
    twice = scene.ledger.messages[100:110]
    for message in twice:
        await scene.produce(message)
    report = await scene.audited()
    assert found(report) == {Kind.REPEATED: len(twice)}
    (counts,) = report.topics
    assert (counts.records, counts.receipts, counts.order_unknown) == (count + len(twice), count, 0)
