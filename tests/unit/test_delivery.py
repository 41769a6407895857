"""What a round sends and holds, and what it records of how it ended."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.delivery import Conclusion, Plan, conclude, plan
from relay.floor import Lane
from relay.outcomes import BatchRefused, Delivered, Outcome, OwedMessage, Refused, TopicUnavailable, Unknown, Unsent
from relay.settlement import TopicChange
from relay.store import Fetched, Topic
from tests.contract.carrying import message

NO_LIMIT = 1000


def owed(number: int, *, topic: str = "t", lane: int = 1, **fields: object) -> OwedMessage:
    return message(topic, b"k")._replace(id=number, lane=lane, **fields)  # type: ignore[arg-type]  # its own fields


def fetched(messages: Iterable[OwedMessage], **topics: Topic) -> Fetched:
    return Fetched(xmin=100, messages=list(messages), topics=topics, returning=[])


def planned(messages: Iterable[OwedMessage], limit: int = NO_LIMIT, *, probes: bool = True, **topics: Topic) -> Plan:
    return plan(fetched(messages, **topics), messages=limit, size=1_000_000, probes=probes)


def ids(messages: Iterable[OwedMessage]) -> list[int]:
    return [each.id for each in messages]


def test_messages_of_all_lanes_and_lists_go_in_the_order_of_ids() -> None:
    todo = planned([owed(5), owed(2, behind=0), owed(4, lane=2), owed(3, behind=1), owed(1, lane=2)])
    assert ids(todo.send) == [1, 2, 3, 4, 5]
    assert not todo.held
    assert not todo.full


def test_held_messages_are_not_sent() -> None:
    todo = planned([owed(1), owed(2, held=0), owed(3, held=1), owed(4)])
    assert (ids(todo.send), ids(todo.held)) == ([1, 4], [2, 3])


def test_a_cut_list_cuts_the_others_of_its_lane_only() -> None:
    parked = [owed(number, behind=0) for number in (3, 5)]
    todo = planned([*parked, owed(1), owed(4), owed(6), owed(9, lane=2)], limit=2)
    assert ids(todo.send) == [1, 3, 4, 5, 9]
    assert todo.full


def test_each_topics_parked_messages_are_a_list_of_their_own() -> None:
    cut = [owed(number, topic="a", behind=0) for number in (1, 3)]
    other = [owed(number, topic="b", behind=0) for number in (2, 9)]
    assert ids(planned([*cut, *other, owed(5, topic="a")], limit=2).send) == [1, 2, 3]


def test_a_list_is_cut_by_its_bytes_too() -> None:
    big = [owed(number, payload=b"x" * 600) for number in (1, 2)]
    todo = plan(fetched([*big, owed(3, behind=0)]), messages=NO_LIMIT, size=1000, probes=True)
    assert ids(todo.send) == [1, 2]
    assert todo.full


def test_the_probe_of_a_topic_waits_for_a_round_of_its_own() -> None:
    messages = [owed(1, behind=0, topic="half"), owed(2)]
    todo = planned(messages, probes=False, half=Topic(closed=True, refused_in_a_row=0))
    assert (ids(todo.send), todo.probe) == ([2], 1)
    todo = planned(messages, probes=True, half=Topic(closed=True, refused_in_a_row=0))
    assert (ids(todo.send), todo.probe) == ([1, 2], None)


rows = st.tuples(st.sampled_from([None, None, 0, 7, 8]), st.sampled_from("ab"), st.integers(0, 2), st.booleans())


@settings(max_examples=500, deadline=None)
@given(rows=st.lists(rows, max_size=25), limit=st.integers(1, 6))
def test_whatever_is_cut_no_message_is_taken_before_a_smaller_one_of_its_key(
    rows: list[tuple[int | None, str, int, bool]], limit: int
) -> None:
    everything = [
        owed(number, topic=topic, behind=behind, held=0 if is_held else None, key=b"%d" % key)
        for number, (behind, topic, key, is_held) in enumerate(rows, 1)
    ]
    lists: defaultdict[object, list[OwedMessage]] = defaultdict(list)
    for each in everything:
        lists[each.behind, each.topic if each.behind == 0 else None].append(each)
    todo = planned([each for members in lists.values() for each in members[:limit]], limit)
    taken = {each.id for each in (*todo.send, *todo.held)}
    left: set[tuple[str, bytes | None]] = set()
    for each in everything:
        if each.id not in taken:
            left.add((each.topic, each.key))
        else:
            assert (each.topic, each.key) not in left, f"{each} overtakes one of its key"
    assert not everything or taken, "a round must come forward"


def concluded(
    outcomes: Sequence[Outcome], messages: Sequence[OwedMessage] = (), *, others: bool = False, **topics: Topic
) -> Conclusion:
    got = fetched(messages, **topics)
    todo = plan(got, messages=NO_LIMIT, size=1_000_000, probes=True)
    return conclude(
        todo, [LANE], got, outcomes, others_answered=others, refusals_to_close=3, due=lambda _lane, _ids: True
    )


LANE = Lane(lane=1, floor=0, seen=0, mark=None, mark_xid=None, has_parked=False, xid=50)


def refused(number: int, topic: str = "t") -> Refused:
    return Refused(owed(number, topic=topic), "MESSAGE_TOO_LARGE")


def test_what_was_confirmed_is_settled_and_the_rest_stays_owed() -> None:
    sent = [owed(number) for number in range(1, 6)]
    ended = concluded([Delivered(sent[:2], 0, 10), Unknown(sent[2:4], "TimeoutError"), Unsent(sent[4:])], sent)
    assert [ids(batch.messages) for batch in ended.settlement.delivered] == [[1, 2]]
    assert not ended.settlement.refused
    assert ended.repeats == 2


def test_silence_alone_is_the_brokers_matter() -> None:
    ended = concluded([Unknown([owed(1)], "TimeoutError"), Unsent([owed(2)])])
    assert ended.silent == "TimeoutError"
    assert not ended.answered
    assert not ended.settlement.topics


def test_silence_while_others_are_answered_is_the_topics_matter() -> None:
    ended = concluded([Unknown([owed(1)], "TimeoutError"), Delivered([owed(2, topic="other")], 0, 0)])
    assert ended.silent is None
    assert ended.settlement.topics == {"t": TopicChange(reason="TimeoutError")}
    ended = concluded([Unknown([owed(1)], "TimeoutError")], others=True)
    assert ended.silent is None
    assert ended.settlement.topics == {"t": TopicChange(reason="TimeoutError")}


def test_a_broken_sequence_is_nobodys_matter_but_may_be_a_repeat() -> None:
    ended = concluded([Unknown([owed(1), owed(2)], "OUT_OF_ORDER_SEQUENCE_NUMBER", answered=True)])
    assert ended.answered
    assert ended.silent is None
    assert not ended.settlement.topics
    assert ended.repeats == 2


def test_an_unavailable_topic_is_closed_and_no_other() -> None:
    ended = concluded([TopicUnavailable("t", [owed(1)], "REASON"), Delivered([owed(2, topic="other")], 0, 0)])
    assert ended.settlement.topics == {"t": TopicChange(reason="REASON")}
    assert ended.repeats == 0


def test_a_refused_batch_goes_one_by_one_and_nothing_is_buried() -> None:
    ended = concluded([BatchRefused([owed(1), owed(2, lane=3)], "MESSAGE_TOO_LARGE")])
    assert ended.one_by_one == {(1, "t"), (3, "t")}
    assert not ended.settlement.refused
    assert not ended.settlement.topics
    assert ended.repeats == 0


def test_a_message_refused_alone_is_buried_and_counted() -> None:
    ended = concluded([refused(1), Unsent([owed(2)])], t=Topic(closed=False, refused_in_a_row=1))
    assert ids(letter.message for letter in ended.settlement.refused) == [1]
    assert ended.settlement.topics == {"t": TopicChange(refused=1)}


def test_too_many_refusals_in_a_row_close_the_topic_instead() -> None:
    ended = concluded([refused(1), refused(2, "other")], t=Topic(closed=False, refused_in_a_row=2))
    assert ids(letter.message for letter in ended.settlement.refused) == [2]
    assert ended.settlement.topics == {
        "t": TopicChange(reason="MESSAGE_TOO_LARGE 3 times in a row"),
        "other": TopicChange(refused=1),
    }


def test_a_success_ends_the_row_of_refusals() -> None:
    outcomes: list[Outcome] = [Delivered([owed(1)], 0, 0), refused(2)]
    ended = concluded(outcomes, t=Topic(closed=False, refused_in_a_row=2))
    assert ids(letter.message for letter in ended.settlement.refused) == [2]
    assert ended.settlement.topics == {"t": TopicChange(confirmed=True, refused=1)}


def test_a_success_opens_a_closed_topic_and_is_not_worth_a_row_otherwise() -> None:
    outcomes = [Delivered([owed(1)], 0, 0)]
    assert concluded(outcomes, t=Topic(closed=True, refused_in_a_row=0)).settlement.topics == {
        "t": TopicChange(confirmed=True)
    }
    assert not concluded(outcomes).settlement.topics


def test_what_is_held_is_parked_once_and_moved_when_it_was_parked() -> None:
    messages = [owed(1, held=0), owed(2, held=1), owed(3, held=1, behind=0)]
    settlement = concluded([], messages).settlement
    assert ids(settlement.parked) == [1, 2]
    assert ids(settlement.reparked) == [3]


def test_a_round_without_anything_to_send_says_nothing_of_the_broker() -> None:
    ended = concluded([], [owed(1, held=0)])
    assert not ended.answered
    assert ended.silent is None


def test_dead_letters_that_return_are_carried_to_the_settle() -> None:
    returning = [(1, 5, 1_767_323_045_678_901)]
    got = Fetched(xmin=100, messages=[], topics={}, returning=returning)
    todo = plan(got, messages=NO_LIMIT, size=1, probes=True)
    ended = conclude(todo, [LANE], got, [], others_answered=False, refusals_to_close=3, due=lambda _lane, _ids: False)
    assert ended.settlement.returning == returning


def test_a_lanes_row_is_written_when_due_or_when_its_parked_changed() -> None:
    sent = [owed(1)]
    got = fetched(sent)
    todo = plan(got, messages=NO_LIMIT, size=1_000_000, probes=True)

    def rows(outcomes: Sequence[Outcome], *, due: bool) -> list[Lane]:
        ended = conclude(
            todo, [LANE], got, outcomes, others_answered=False, refusals_to_close=3, due=lambda _lane, _ids: due
        )
        return ended.settlement.lanes

    assert [lane.seen for lane in rows([Delivered(sent, 0, 0)], due=True)] == [1]
    assert not rows([Delivered(sent, 0, 0)], due=False)
    assert [lane.lane for lane in concluded([], [owed(1, held=0)]).settlement.lanes] == [1]
    assert [lane.lane for lane in concluded([], [owed(1, behind=0)]).settlement.lanes] == [1]


def test_when_one_lane_is_due_all_that_moved_are_written() -> None:
    lanes = [LANE._replace(lane=number) for number in (1, 2, 3)]
    sent = [owed(number, lane=number) for number in (1, 2)]
    got = fetched(sent)
    todo = plan(got, messages=NO_LIMIT, size=1_000_000, probes=True)

    def written(due: int) -> list[int]:
        outcomes = [Delivered(sent, 0, 0)]
        ended = conclude(
            todo, lanes, got, outcomes, others_answered=False, refusals_to_close=3, due=lambda lane, _ids: lane == due
        )
        return [lane.lane for lane in ended.settlement.lanes]

    assert written(due=1) == [1, 2]
    assert not written(due=3), "its row did not move"
    assert not written(due=4)
