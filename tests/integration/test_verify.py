"""The auditor: each kind of damage is really done, and found; nothing else is."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from app.audit import Kind, Report, Scope, order
from app.audit.order import KeyOrder
from app.kafka import log
from app.kafka.log import Log
from app.kafka.walk import Bounds
from relay.partitioner import partition_of
from tests.auditing import PARTITIONS, Scene, found, only, scene_on
from tests.ledger import Added
from tests.receipts import forget, move
from tests.relaying import running
from tests.services.kafka import Kafka

_KEY = b"key-1"


@pytest.fixture
async def scene(database_url: str, kafka: Kafka) -> AsyncIterator[Scene]:
    async with scene_on(database_url, kafka) as scene:
        yield scene


@pytest.fixture
async def messages(scene: Scene) -> list[Added]:
    """Delivered by a relay: of ten keys, and the odd ones."""
    pairs = [(b"key-%d" % (n % 10), b"payload %d" % n) for n in range(200)]
    added = await scene.add(*pairs, (_KEY, None), (_KEY, b""), (b"", b"an empty key"), (None, b"none"), (None, None))
    await scene.deliver()
    return added


def _of_one_key(messages: list[Added]) -> list[Added]:
    return [message for message in messages if message.key == _KEY]


async def test_a_clean_system_is_clean(scene: Scene, messages: list[Added]) -> None:
    report = await scene.audited(max_repeats=0)
    assert report.findings == ()
    assert report.ok
    (counts,) = report.topics
    assert (counts.topic, counts.records, counts.receipts) == (scene.topic, len(messages), len(messages))
    assert (counts.no_longer_there, counts.foreign, counts.beyond_receipts, counts.order_unknown) == (0, 0, 0, 0)
    assert (report.standing.owed, report.standing.parked, report.standing.dead_letters) == (0, 0, 0)


async def test_a_system_with_nothing_in_it_is_clean(scene: Scene) -> None:
    report = await scene.audited()
    assert (report.findings, report.topics, report.records) == ((), (), 0)


async def test_a_record_whose_receipt_is_gone_is_invented(scene: Scene, messages: list[Added]) -> None:
    message = messages[17]
    place = await scene.place(message)
    await forget(scene.connection, [message.message_id])
    only(await scene.audited(), Kind.INVENTED, (message, place))


async def test_a_forged_record_is_invented_even_in_an_empty_topic(scene: Scene) -> None:
    (message,) = await scene.add((_KEY, b"never committed"))
    await scene.connection.execute("DELETE FROM outbox_messages")
    place = await scene.produce(message)
    only(await scene.audited(Scope(topics=(scene.topic,))), Kind.INVENTED, (message, place))


async def test_a_record_in_a_topic_that_it_was_not_for_is_invented(scene: Scene, messages: list[Added]) -> None:
    other = await scene.kafka.create_topic(partitions=3)
    place = await scene.produce(messages[3], topic=other)
    report = await scene.audited(Scope(topics=(scene.topic, other)))
    finding = only(report, Kind.INVENTED, (messages[3], place))
    assert scene.topic in finding.examples[0].detail


async def test_records_of_others_are_counted_and_left_alone(scene: Scene, messages: list[Added]) -> None:
    await scene.send(scene.topic, b"key", b"value")
    await scene.send(scene.topic, b"key", b"value", [("ce_id", b"not-one-of-ours"), ("ce_specversion", b"1.0")])
    report = await scene.audited()
    assert (report.findings, report.topics[0].foreign) == ((), 2)


async def test_a_receipt_behind_the_end_of_the_log_is_a_loss(scene: Scene, messages: list[Added]) -> None:
    message = messages[5]
    partition, _ = await scene.place(message)
    await move(scene.connection, message.message_id, 100_000)
    report = await scene.audited()
    # Its record is there, but not where the receipt says: one more than needed.
    assert found(report) == {Kind.LOST: 1, Kind.REPEATED: 1}
    assert not report.ok
    (example,) = report.findings[0].examples
    assert (example.message_id, example.partition, example.offset) == (str(message.message_id), partition, 100_000)


async def test_receipts_of_a_topic_or_partition_that_is_not_there_are_losses(scene: Scene) -> None:
    lost = await scene.add((b"1", b""), (b"2", b""), topic="no-such-topic")
    for message in lost:
        await scene.settle(message, (0, 7))
    (astray,) = await scene.add((b"3", b""))
    await scene.settle(astray, (55, 0))
    report = await scene.audited()
    assert found(report) == {Kind.LOST: 3}
    details = {each.message_id: each.detail for each in report.findings[0].examples}
    no_topic, no_partition = "there is no such topic", "there is no such partition"
    assert details == {
        str(message.message_id): no_topic if message in lost else no_partition for message in [*lost, astray]
    }


async def test_another_value_than_was_committed_is_altered(scene: Scene) -> None:
    (message,) = await scene.add((_KEY, b"as committed"))
    place = await scene.produce(message, payload=b"as nobody wrote it")
    await scene.settle(message, place)
    only(await scene.audited(), Kind.ALTERED, (message, place))


async def test_an_altered_copy_is_altered_and_a_repeat(scene: Scene, messages: list[Added]) -> None:
    place = await scene.produce(messages[2], payload=b"something else")
    report = await scene.audited()
    assert found(report) == {Kind.ALTERED: 1, Kind.REPEATED: 1}
    (example,) = report.findings[0].examples
    assert (example.message_id, example.partition, example.offset) == (str(messages[2].message_id), *place)


async def test_repeats_are_counted_and_allowed_up_to_a_number(scene: Scene, messages: list[Added]) -> None:
    for message in (messages[2], messages[30], messages[2]):
        await scene.produce(message)
    report = await scene.audited()
    assert (found(report), report.ok) == ({Kind.REPEATED: 3}, True)
    assert (await scene.audited(max_repeats=3)).ok
    assert not (await scene.audited(max_repeats=2)).ok


async def test_a_batch_sent_twice_before_it_was_settled_is_repeats_and_in_order(scene: Scene) -> None:
    """What a crash between acknowledgement and settle leaves behind."""
    added = await scene.add(*((b"key-%d" % (n % 3), b"%d" % n) for n in range(30)))
    for message in added:
        await scene.produce(message)
    await scene.deliver()
    report = await scene.audited()
    assert (found(report), report.ok) == ({Kind.REPEATED: 30}, True)


async def test_what_was_sent_and_is_still_owed_is_known(scene: Scene) -> None:
    once, twice = await scene.add((b"1", b"once"), (b"2", b"twice"))
    await scene.produce(once)
    await scene.produce(twice)
    report = await scene.audited()
    assert (report.findings, report.standing.owed) == ((), 2)
    await scene.produce(twice)
    assert found(await scene.audited()) == {Kind.REPEATED: 1}


async def test_messages_of_a_key_in_another_order_than_committed(scene: Scene) -> None:
    first, second, third = await scene.add((_KEY, b"1"), (_KEY, b"2"), (_KEY, b"3"))
    _, late, _ = await scene.deliver_by_hand([second, first, third])
    only(await scene.audited(), Kind.OUT_OF_ORDER, (first, late))


async def test_only_first_records_must_be_in_order(scene: Scene) -> None:
    first, second = await scene.add((_KEY, b"1"), (_KEY, b"2"))
    await scene.produce(first)
    await scene.deliver_by_hand([second, first])
    report = await scene.audited()
    assert (found(report), report.ok) == ({Kind.REPEATED: 1}, True)


async def test_a_first_record_that_has_no_receipt_counts_for_the_order(scene: Scene) -> None:
    """The copy that was confirmed lies in order; the one that came first does not."""
    first, second, third = await scene.add((_KEY, b"1"), (_KEY, b"2"), (_KEY, b"3"))
    await scene.produce(third)
    place = await scene.produce(second)
    await scene.deliver_by_hand([first, second, third])
    report = await scene.audited()
    (finding,) = (each for each in report.findings if each.kind is Kind.OUT_OF_ORDER)
    assert {each.message_id for each in finding.examples} == {str(first.message_id), str(second.message_id)}
    assert place in {(each.partition, each.offset) for each in finding.examples}


async def test_messages_of_different_keys_or_without_one_may_come_in_any_order(scene: Scene) -> None:
    added = await scene.add((b"1", b""), (b"2", b""), (None, b"3"), (None, b"4"), (b"5", b""))
    await scene.deliver_by_hand(added[::-1])
    assert (await scene.audited()).findings == ()


async def test_receipts_of_before_ids_were_kept_say_nothing_of_the_order(scene: Scene) -> None:
    added = await scene.add((_KEY, b"1"), (_KEY, b"2"))
    for message in added[::-1]:
        await scene.settle(message, await scene.produce(message), with_id=False)
    report = await scene.audited()
    assert (report.findings, report.topics[0].order_unknown) == ((), 2)


async def test_two_receipts_at_one_place(scene: Scene, messages: list[Added]) -> None:
    (other,) = await scene.add((_KEY, b"other"))
    place = await scene.place(messages[8])
    await scene.settle(other, place)
    report = await scene.audited()
    (finding,) = report.findings
    assert (finding.kind, finding.count, finding.violation) == (Kind.FALSE_RECEIPT, 1, True)
    assert (finding.examples[0].partition, finding.examples[0].offset) == place


async def test_a_batch_that_lies_over_others(scene: Scene, messages: list[Added]) -> None:
    """Its receipts, of messages that nobody knows, name places in the middle of a true batch."""
    await scene.connection.execute(
        """
        INSERT INTO outbox_receipt_batches
        SELECT topic, partition, "offset" + 3, delivered_at, outbox_message_id_range(others[1], others[5], '[]'),
            others, '{1,2,3,4,5}', '{0,0,0,0,0}', '{0,0,0,0,0}'
        FROM outbox_receipt_batches, (
            SELECT array_agg(id ORDER BY id) AS others
            FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, 5)) AS made
        ) AS forged
        WHERE cardinality(message_ids) > 9 ORDER BY partition LIMIT 1
        """
    )
    report = await scene.audited()
    assert (found(report), report.topics[0].receipts) == ({Kind.FALSE_RECEIPT: 5}, len(messages) + 5)


async def test_receipts_that_name_each_others_records(scene: Scene, messages: list[Added]) -> None:
    one, other = _of_one_key(messages)[:2]
    places = [await scene.place(one), await scene.place(other)]
    for message, place in ((one, places[1]), (other, places[0])):
        await move(scene.connection, message.message_id, place[1])
    only(await scene.audited(), Kind.FALSE_RECEIPT, (one, places[1]), (other, places[0]))


async def test_a_message_with_two_receipts(scene: Scene, messages: list[Added]) -> None:
    place = await scene.produce(messages[4])
    await scene.receipt(messages[4], place)
    (finding,) = (await scene.audited()).findings
    assert (finding.kind, finding.count, finding.violation) == (Kind.FALSE_RECEIPT, 1, True)
    assert finding.examples[0].message_id == str(messages[4].message_id)


async def test_a_receipt_of_a_message_that_is_still_owed(scene: Scene) -> None:
    (message,) = await scene.add((_KEY, b"owed"))
    await scene.receipt(message, await scene.produce(message))
    (finding,) = (await scene.audited()).findings
    assert (finding.kind, finding.count, finding.violation) == (Kind.FALSE_RECEIPT, 1, True)


async def test_dead_letters_that_nobody_has_decided_on_are_told(scene: Scene, messages: list[Added]) -> None:
    (message,) = await scene.add((_KEY, b"too large"))
    await scene.connection.execute(
        "WITH gone AS (DELETE FROM outbox_messages RETURNING *) INSERT INTO outbox_dead_letters "
        "(lane, id, message_id, topic, key, headers, payload, type, created_at, reason) "
        "SELECT *, 'MESSAGE_TOO_LARGE' FROM gone"
    )
    report = await scene.audited()
    assert (report.findings, report.ok, report.standing.dead_letters) == ((), True, 1)
    (example,) = report.standing.dead_letter_examples
    assert (example.message_id, example.detail) == (str(message.message_id), "MESSAGE_TOO_LARGE")


async def test_what_people_decided_on_may_come_late(scene: Scene) -> None:
    first, second = await scene.add((_KEY, b"1"), (_KEY, b"2"))
    await scene.deliver_by_hand([second, first])
    await scene.connection.execute(
        "INSERT INTO outbox_dead_letters (lane, id, message_id, topic, headers, type, created_at, reason, state, "
        "decided_at) VALUES (0, $1, $2, $3, '{}', 't', now(), 'MESSAGE_TOO_LARGE', 'retried', now())",
        first.id,
        first.message_id,
        first.topic,
    )
    assert (await scene.audited()).findings == ()


async def test_records_older_than_receipts_are_kept_are_beyond_judgement(scene: Scene, messages: list[Added]) -> None:
    (old,) = await scene.add((_KEY, b"old"))
    await scene.connection.execute("DELETE FROM outbox_messages")
    ago = datetime.now(UTC) - scene.settings.receipts_retention
    await scene.produce(old, timestamp=round(ago.timestamp() * 1000))
    report = await scene.audited()
    assert (report.findings, report.topics[0].beyond_receipts) == ((), 1)


async def test_only_some_offsets(scene: Scene, messages: list[Added]) -> None:
    places = [await scene.place(message) for message in messages]
    early = [message for message, place in zip(messages, places, strict=True) if place[1] < 10]
    await forget(scene.connection, [message.message_id for message in early])
    report = await scene.audited(Scope(first=10))
    assert report.findings == ()
    assert report.topics[0].records == report.topics[0].receipts == len(messages) - len(early)
    report = await scene.audited(Scope(end=10))
    assert found(report) == {Kind.INVENTED: len(early)}
    assert (report.topics[0].records, report.topics[0].receipts) == (len(early), 0)


async def test_offsets_that_cut_a_batch(scene: Scene, messages: list[Added]) -> None:
    places = [await scene.place(message) for message in messages]
    between = [place for place in places if 10 <= place[1] < 20]
    report = await scene.audited(Scope(first=10, end=20))
    assert (report.findings, report.topics[0].records, report.topics[0].receipts) == ((), len(between), len(between))
    last = max(places, key=lambda place: place[1])[1]
    report = await scene.audited(Scope(first=last))
    assert (report.findings, report.topics[0].receipts) == ((), [offset for _, offset in places].count(last))


async def test_only_some_time(scene: Scene, messages: list[Added]) -> None:
    (forged,) = await scene.add((_KEY, b"forged"))
    await scene.connection.execute("DELETE FROM outbox_messages")
    now = datetime.now(UTC)
    later = now + timedelta(minutes=10)
    await scene.produce(forged, timestamp=round(later.timestamp() * 1000))
    before = await scene.audited(Scope(until=now + timedelta(minutes=5)))
    assert (before.findings, before.topics[0].records) == ((), len(messages))
    after = await scene.audited(Scope(since=now + timedelta(minutes=5)))
    assert (found(after), after.topics[0].records, after.topics[0].receipts) == ({Kind.INVENTED: 1}, 1, 0)
    nothing = await scene.audited(Scope(since=now + timedelta(minutes=20)))
    assert (nothing.findings, nothing.records) == ((), 0)


async def test_a_range_says_nothing_of_repeats_of_what_lies_before_it(scene: Scene) -> None:
    """In the range the second comes before the first, but the first may have a record before the range."""
    first, second = await scene.add((_KEY, b"1"), (_KEY, b"2"))
    _, offset = await scene.produce(first)
    await scene.deliver_by_hand([second, first])
    report = await scene.audited(Scope(first=offset + 1))
    assert (report.findings, report.topics[0].order_unknown) == ((), 1)


async def test_examples_are_as_many_as_wanted(scene: Scene, messages: list[Added]) -> None:
    await scene.connection.execute("DELETE FROM outbox_receipt_batches")
    (finding,) = (await scene.audited(Scope(topics=(scene.topic,)), examples=3)).findings
    assert (finding.count, len(finding.examples)) == (len(messages), 3)
    (finding,) = (await scene.audited(Scope(topics=(scene.topic,)), examples=0)).findings
    assert (finding.count, finding.examples) == (len(messages), ())


async def test_a_system_at_work_is_no_false_alarm(scene: Scene) -> None:
    reports: list[Report] = []
    async with running(scene.settings):
        for _ in range(5):
            await scene.ledger.fill(scene.topic, messages=400, keys=7)
            reports.append(await scene.audited(max_repeats=0))
    assert [report.findings for report in reports] == [()] * 5
    assert reports[-1].records > 0


@pytest.mark.parametrize("moment", ["before the ends are read", "after the ends were read"])
async def test_what_is_delivered_meanwhile_is_neither_lost_nor_invented(
    scene: Scene, messages: list[Added], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    bounds = Log.bounds

    async def beside(kafka: Log, topic: str, partition: int) -> Bounds:
        early = await bounds(kafka, topic, partition)
        await scene.deliver_by_hand(await scene.add((_KEY, b"new"), (b"key-2", b"new"), (None, b"new")))
        return await bounds(kafka, topic, partition) if moment.startswith("before") else early

    monkeypatch.setattr(Log, "bounds", beside)
    report = await scene.audited(max_repeats=0)
    assert report.findings == ()
    assert report.records >= len(messages)


async def test_keys_that_memory_does_not_hold_are_in_order_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "PORTION", 2)
    monkeypatch.setattr(order, "KeyOrder", partial(KeyOrder, most=2))
    keys = [key for key in (b"key-%d" % n for n in range(90)) if partition_of(key, PARTITIONS) == 0]
    first, second, *others = await scene.add((keys[0], b"1"), (keys[0], b"2"), *((key, b"") for key in keys[1:20]))
    *_, late = await scene.deliver_by_hand([second, *others, first])
    only(await scene.audited(), Kind.OUT_OF_ORDER, (first, late))


async def test_progress_comes_to_its_end(scene: Scene, messages: list[Added]) -> None:
    seen: list[tuple[int, int]] = []
    await scene.audited(progress=lambda now: seen.append((now.done, now.total)))
    assert seen[-1] == (len(messages), len(messages))
    assert seen == sorted(seen)
