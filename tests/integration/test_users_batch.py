"""Requests down to rows and replies, without Kafka."""

import itertools
from collections.abc import AsyncIterator
from datetime import date

import pytest

from app.kafka.input import Input
from app.users.documents import FIELDS
from app.users.xml import is_valid
from tests.consuming import Consuming, consuming, record, request_xml, success_xml, user_xml

_SEED = """\
	<ns2:Request xmlns:ns2="urn://www.example.com">
	<ns2:User>
	<ns2:Name>Иван</ns2:Name>
	<ns2:Surname>Иванов</ns2:Surname>
	<ns2:Email>ivan.ivanov.2023.2024@yandex.com</ns2:Email>
	<ns2:Birthday>2005-10-23T04:00:00+03:00</ns2:Birthday>
	</ns2:User>
	</ns2:Request>
""".encode()


@pytest.fixture
async def users(database_url: str) -> AsyncIterator[Consuming]:
    async with consuming(database_url) as it:
        yield it


def _failed(*users: str) -> bytes:
    elements = "".join(user.replace("</ns2:User>", "<ns2:Status>FAILED</ns2:Status></ns2:User>") for user in users)
    return f'<ns2:Response xmlns:ns2="urn://www.example.com">{elements}</ns2:Response>'.encode()


async def test_the_request_of_the_seed(users: Consuming) -> None:
    await users.batches().handle([record(_SEED, offset=7, partition=2, key=b"k", timestamp=1_900_000_000_000)])
    (user,) = await users.users()
    assert (user["name"], user["surname"], user["email"]) == ("Иван", "Иванов", "ivan.ivanov.2023.2024@yandex.com")
    assert user["birthday"] == date(2005, 10, 23)
    (reply,) = await users.owed()
    assert reply.payload == success_xml(user["id"])
    assert (reply.topic, reply.key, reply.type) == ("users.responses", b"k", "user.request.answered")
    assert reply.headers == {
        "content-type": b"application/xml",
        "ce_source": b"/outbox-service",
        "correlation-id": b"at:users.requests:2:7:1900000000000",
        "source-topic": b"users.requests",
        "source-partition": b"2",
        "source-offset": b"7",
    }
    assert len(users.commits) == 1


@pytest.mark.parametrize("missing", [m for n in range(1, 5) for m in itertools.combinations(FIELDS, n)], ids="-".join)
async def test_each_combination_of_missing_fields(users: Consuming, missing: tuple[str, ...]) -> None:
    user = user_xml(**dict.fromkeys(missing))
    batches = users.batches()
    await batches.handle([record(request_xml(user))])
    (reply,) = await users.owed()
    assert reply.payload == _failed(user)
    assert is_valid(reply.payload, "response")
    assert (reply.headers["error-code"], reply.headers["error-fields"]) == (b"INVALID", ",".join(missing).encode())
    assert await users.users() == []
    await batches.handle([record(_SEED, offset=1)])
    assert len(await users.users()) == 1


async def test_markup_comes_back_intact(users: Consuming) -> None:
    name = "&lt;b&gt; &amp;amp; \"'😀]]&gt;&#13;"
    await users.batches().handle([record(request_xml(user_xml(name=name, email="no")))])
    (reply,) = await users.owed()
    assert reply.payload is not None
    assert "&lt;b&gt; &amp;amp; \"'😀]]&gt;&#13;".encode() in reply.payload
    await users.batches().handle([record(request_xml(user_xml(name=name.removesuffix("&#13;"))), offset=1)])
    assert [user["name"] for user in await users.users()] == ["<b> &amp; \"'😀]]>"]


async def test_several_users_get_one_reply_in_their_order(users: Consuming) -> None:
    wrong = user_xml("z@example", name=" a ")
    request = request_xml(user_xml("z@example.com"), wrong, user_xml("a@example.com"), user_xml("Z@example.com"))
    await users.batches().handle([record(request)])
    ids = {user["email"]: user["id"] for user in await users.users()}
    (reply,) = await users.owed()
    saved = success_xml(ids["z@example.com"]), success_xml(ids["a@example.com"])
    inner = [
        each.split(b">", 1)[1].removesuffix(b"</ns2:Response>")
        for each in (*saved, _failed(wrong, user_xml("Z@example.com")))
    ]
    failed = inner[2].split(b"</ns2:User>")
    expected = inner[0] + failed[0] + b"</ns2:User>" + inner[1] + failed[1] + b"</ns2:User>"
    assert reply.payload == b'<ns2:Response xmlns:ns2="urn://www.example.com">' + expected + b"</ns2:Response>"
    assert reply.headers["error-code"] == b"INVALID"


async def test_an_email_is_taken_once_whatever_its_case(users: Consuming) -> None:
    batch = [
        record(request_xml(user_xml(email)), offset=n) for n, email in enumerate(("A@example.com", "a@EXAMPLE.com"))
    ]
    await users.batches().handle(batch)
    await users.batches().handle([record(request_xml(user_xml("a@example.com")), offset=2)])
    assert [user["email"] for user in await users.users()] == ["A@example.com"]
    first, *others = await users.replies()
    assert b"SUCCESS" in (first.payload or b"")
    for reply in others:
        assert b"FAILED" in (reply.payload or b"")
        assert (reply.headers["error-code"], reply.headers["error-fields"]) == (b"EMAIL_TAKEN", b"email")


async def test_the_same_email_may_return_the_known_user(users: Consuming) -> None:
    batches = users.batches(users_same_email="return")
    await batches.handle([record(request_xml(user_xml("a@example.com"), user_xml("A@example.com")))])
    await batches.handle([record(request_xml(user_xml("a@example.com")), offset=1)])
    (user,) = await users.users()
    assert [reply.payload for reply in await users.replies()] == [
        success_xml(user["id"], user["id"]),
        success_xml(user["id"]),
    ]


async def test_the_same_email_may_be_allowed_and_rejected_later(users: Consuming) -> None:
    allow = users.batches(users_same_email="allow")
    await allow.handle([record(request_xml(user_xml("a@example.com"), user_xml("a@example.com")))])
    await allow.handle([record(request_xml(user_xml("a@example.com")), offset=1)])
    ids = [user["id"] for user in await users.users()]
    assert [reply.payload for reply in await users.replies()] == [success_xml(*ids[:2]), success_xml(ids[2])]
    await users.batches().handle([record(request_xml(user_xml("a@example.com")), offset=2)])
    assert len(await users.users()) == 3
    await users.batches(users_same_email="return").handle([record(request_xml(user_xml("a@example.com")), offset=3)])
    assert (await users.replies())[-1].payload == success_xml(ids[0])


async def test_redelivery_has_no_second_effect(users: Consuming) -> None:
    requests = [record(request_xml(user_xml(f"{n}@example.com")), offset=n, ce_id=b"%d" % n) for n in range(20)]
    moved = [record(each.value, offset=n + 100, partition=1, ce_id=b"%d" % n) for n, each in enumerate(requests)]
    for _ in range(3):
        await users.batches().handle([*requests[5:], *requests, *moved])
        await users.batches().handle_singly(moved[3])
    assert len(await users.users()) == len(await users.owed()) == 20
    assert await users.dead_letters() == []


async def test_without_an_id_the_place_is_the_id(users: Consuming) -> None:
    same = record(_SEED, offset=4, timestamp=1_900_000_000_000)
    made_anew = record(_SEED, offset=4, timestamp=1_900_000_000_001)
    await users.batches().handle([same, same, made_anew])
    await users.batches().handle([same, made_anew])
    assert len(await users.users()) == 1
    assert len(await users.replies()) == 2


async def test_a_correlation_id_is_an_id_only_by_setting(users: Consuming) -> None:
    once, again = (record(_SEED, offset=n, correlation_id=b"c-1") for n in range(2))
    await users.batches(users_correlation_is_unique=True).handle([once, again])
    assert len(await users.replies()) == 1
    await users.batches().handle([once, again])
    assert len(await users.replies()) == 3


async def test_the_same_id_with_another_body_is_a_dead_letter_once(users: Consuming) -> None:
    first = record(request_xml(user_xml("a@example.com")), ce_id=b"1")
    other = record(request_xml(user_xml("b@example.com")), offset=1, ce_id=b"1")
    third = record(request_xml(user_xml("c@example.com")), offset=2, ce_id=b"1")
    for _ in range(3):
        await users.batches().handle([first, other])
        await users.batches().handle([third])
    assert [user["email"] for user in await users.users()] == ["a@example.com"]
    letters = await users.dead_letters()
    assert [(each.headers["dlq.reason"], each.payload) for each in letters] == [
        (b"KEY_REUSED", other.value),
        (b"KEY_REUSED", third.value),
    ]
    assert len(await users.replies()) == 1


async def test_a_clash_before_a_repeat_and_twice_in_one_batch(users: Consuming) -> None:
    first, again = (record(request_xml(user_xml("a@example.com")), offset=n, ce_id=b"1") for n in (0, 3))
    other, once_more = (record(request_xml(user_xml("b@example.com")), offset=n, ce_id=b"1") for n in (1, 2))
    await users.batches().handle([first])
    for _ in range(2):
        await users.batches().handle([other, once_more, again])
    letters = await users.dead_letters()
    assert [(each.headers["dlq.reason"], each.headers["dlq.offset"]) for each in letters] == [
        (b"KEY_REUSED", b"1"),
        (b"KEY_REUSED", b"2"),
    ]
    assert len(await users.replies()) == 1


async def test_ids_of_different_sources_differ(users: Consuming) -> None:
    bodies = [request_xml(user_xml(f"{n}@example.com")) for n in range(2)]
    await users.batches().handle(
        [record(body, offset=n, ce_id=b"1", ce_source=b"/%d" % n) for n, body in enumerate(bodies)]
    )
    assert len(await users.users()) == 2


@pytest.mark.parametrize("event_id", [b"", b"\xff\xfe", b"a\0b", b"x" * 100_000, "ключ".encode()], ids=repr)
async def test_odd_ids(users: Consuming, event_id: bytes) -> None:
    for _ in range(2):
        await users.batches().handle([record(_SEED, ce_id=event_id)])
    assert len(await users.replies()) == 1


async def test_what_cannot_be_read_is_answered_and_kept(users: Consuming) -> None:
    good = record(_SEED, offset=1)
    bad = record(
        b"<not xml",
        key=b"k",
        timestamp=1_900_000_000_000,
        ce_id=b"7",
        dlq_reason=b"forged",
        x_retry_count=b"9",
        nothing=None,
        correlation_id=b"c-7",
    )
    for _ in range(2):
        await users.batches().handle([bad, good])
    (letter,) = await users.dead_letters()
    assert (letter.key, letter.payload, letter.type) == (b"k", b"<not xml", "message.dead_lettered")
    assert letter.headers == {
        "ce_source": b"/outbox-service",
        "dlq.reason": b"NOT_XML",
        "dlq.consumer": b"users",
        "dlq.topic": b"users.requests",
        "dlq.partition": b"0",
        "dlq.offset": b"0",
        "dlq.timestamp": b"1900000000000",
        "dlq.null-headers": b"nothing",
        "dlq.original.header.ce_id": b"7",
        "dlq.original.header.dlq-reason": b"forged",
        "x-retry-count": b"9",
        "correlation-id": b"c-7",
    }
    status_only, success = await users.replies()
    assert status_only.payload == _failed("<ns2:User></ns2:User>")
    assert status_only.headers["error-code"] == b"NOT_XML"
    assert status_only.headers["correlation-id"] == b"c-7"
    assert b"SUCCESS" in (success.payload or b"")


async def test_replies_to_the_unreadable_can_be_silenced(users: Consuming) -> None:
    await users.batches(users_reply_to_unreadable=False).handle([record(None)])
    assert [message.topic for message in await users.owed()] == ["users.requests.dlq"]
    assert (await users.owed())[0].payload is None


async def test_a_dead_letter_that_is_too_large_is_cut(users: Consuming) -> None:
    huge = record(b"<" + b"x" * 1_000_000, key=b"k" * 100_000, big=b"h" * 70_000)
    await users.batches().handle([huge])
    (letter,) = await users.dead_letters()
    assert letter.payload == (huge.value or b"")[:65_536]
    assert letter.key == b"k" * 65_536
    assert letter.headers["dlq.value-bytes"] == b"1000001"
    assert letter.headers["dlq.cut"] == b"value, key, headers"
    assert len(letter.headers["dlq.value-sha256"]) == 64
    (reply,) = await users.replies()
    assert reply.key is None


async def test_an_echo_that_grows_too_large_is_left_out(users: Consuming) -> None:
    request = request_xml(user_xml(name="<![CDATA[" + "&" * 250_000 + "]]>"))
    await users.batches().handle([record(request)])
    (reply,) = await users.owed()
    assert reply.payload == _failed("<ns2:User></ns2:User>")
    assert reply.headers["error-fields"] == b"name"


async def test_replies_go_only_where_the_list_allows(users: Consuming) -> None:
    batches = users.batches(users_reply_topics="their.replies,others")
    for offset, asked in enumerate((b"their.replies", b"elsewhere", b"\xff", b"their.replies\0")):
        headers = (("kafka_replyTopic", asked), ("kafka_correlationId", b"\x01\xff"))
        await batches.handle([Input("users.requests", 0, offset, -1, None, _SEED, headers)])
    replies = await users.owed()
    assert [reply.topic for reply in replies] == ["their.replies", *["users.responses"] * 3]
    for reply in replies:
        assert reply.headers["correlation-id"] == reply.headers["kafka_correlationId"] == b"\x01\xff"


async def test_a_trace_goes_on_if_it_is_one(users: Consuming) -> None:
    good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await users.batches().handle([record(_SEED, traceparent=good), record(_SEED, offset=1, traceparent=b"garbage")])
    first, second = await users.owed()
    assert first.headers["traceparent"] == good
    assert "traceparent" not in second.headers


async def test_a_record_older_than_the_inbox_is_refused_not_guessed(users: Consuming) -> None:
    await users.batches().handle([record(_SEED, timestamp=0), record(_SEED, offset=1, timestamp=2**52)])
    (letter,) = await users.dead_letters()
    assert letter.headers["dlq.reason"] == b"TOO_OLD"
    assert len(await users.users()) == len(await users.replies()) == 1
