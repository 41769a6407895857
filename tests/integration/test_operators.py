"""What operators do, and what they see, while relays work."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import Conflict, NotFound
from app.outbox import dead_letters, operators, status
from app.outbox.operators import ByIds, OfTopic, Undecided
from tests.engine import Broker, connect, empty, engine
from tests.ledger import Added, Ledger
from tests.waiting import until
from tests.writers import sessions_on

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    async with sessions_on(database_url, 2) as made:
        yield made


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connect(database_url) as opened:
        yield opened


@pytest.fixture
def ledger(connection: asyncpg.Connection) -> Ledger:
    return Ledger(connection)


async def _one_dead(ledger: Ledger, broker: Broker, database_url: str, topic: str = "t") -> list[Added]:
    """A dead letter and its two followers, parked."""
    poison = f"poison {topic}".encode()
    broker.poison.add(poison)
    messages = await ledger.add(topic, [(b"key", poison), (b"key", b"second"), (b"key", b"third")])
    async with engine(database_url, broker), connect(database_url) as connection:

        async def parked() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM outbox_parked WHERE behind = $1", messages[0].id) == 2
            )

        await until(parked)
    return messages


async def test_a_retried_message_goes_before_those_that_waited(
    database_url: str, sessions: Sessions, ledger: Ledger
) -> None:
    broker = Broker()
    dead, *followers = await _one_dead(ledger, broker, database_url)
    broker.poison.clear()
    async with sessions.begin() as session:
        letters = await operators.retry(session, ByIds((dead.message_id,)), by="me", reason="mended")
    assert [letter.message_id for letter in letters] == [dead.message_id]
    async with engine(database_url, broker):
        await empty(database_url)
    assert broker.ids("t") == [message.id for message in (dead, *followers)]
    async with sessions() as session:
        letter = await dead_letters.get_dead_letter(session, dead.message_id)
    assert (letter.state, letter.decided_by, letter.decision_reason) == ("retried", "me", "mended")


async def test_a_discarded_message_is_kept_with_who_and_why_and_its_followers_go(
    database_url: str, sessions: Sessions, ledger: Ledger
) -> None:
    broker = Broker()
    dead, *followers = await _one_dead(ledger, broker, database_url)
    broker.poison.clear()
    async with sessions.begin() as session:
        await operators.discard(session, ByIds((dead.message_id,)), by="me", reason="test data")
    async with engine(database_url, broker):
        await empty(database_url)
    assert broker.ids("t") == [message.id for message in followers]
    async with sessions() as session:
        (letter,) = await dead_letters.list_dead_letters(session, limit=10)
        content = await dead_letters.get_content(session, dead.message_id)
    assert (letter.state, letter.decided_by, letter.decision_reason) == ("discarded", "me", "test data")
    assert letter.decided_at is not None
    assert content.payload == b"poison t"


async def test_only_undecided_dead_letters_can_be_decided_and_all_or_none_of_them(
    database_url: str, sessions: Sessions, ledger: Ledger
) -> None:
    broker = Broker()
    first, *_ = await _one_dead(ledger, broker, database_url, "a")
    second, *_ = await _one_dead(ledger, broker, database_url, "b")
    unknown = uuid4()
    with pytest.raises(NotFound, match=str(unknown)):
        async with sessions.begin() as session:
            await operators.discard(session, ByIds((first.message_id, unknown)), by="me", reason="no")
    async with sessions.begin() as session:
        await operators.discard(session, ByIds((first.message_id,)), by="me", reason="no")
    with pytest.raises(Conflict, match="already discarded"):
        async with sessions.begin() as session:
            await operators.retry(session, ByIds((first.message_id, second.message_id)), by="me")
    async with sessions() as session:
        states = {letter.message_id: letter.state for letter in await dead_letters.list_dead_letters(session, limit=10)}
    assert states == {first.message_id: "discarded", second.message_id: "dead"}


async def test_whoever_decides_second_is_told(database_url: str, sessions: Sessions, ledger: Ledger) -> None:
    dead, *_ = await _one_dead(ledger, Broker(), database_url)
    which = ByIds((dead.message_id,))
    results = await asyncio.gather(
        *(_retry(sessions, which) for _ in range(2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results if isinstance(result, Exception)] == [Conflict]


async def _retry(sessions: Sessions, which: operators.Which) -> list[UUID]:
    async with sessions.begin() as session:
        return [letter.message_id for letter in await operators.retry(session, which, by="me")]


async def test_a_selector_means_the_undecided_ones_only(database_url: str, sessions: Sessions, ledger: Ledger) -> None:
    broker = Broker()
    a, *_ = await _one_dead(ledger, broker, database_url, "a")
    b, *_ = await _one_dead(ledger, broker, database_url, "b")
    async with sessions() as session:
        chosen = await operators.choose(session, Undecided())
    assert {letter.message_id for letter in chosen} == {a.message_id, b.message_id}, "choosing decides nothing"
    assert await _retry(sessions, OfTopic("a")) == [a.message_id]
    assert await _retry(sessions, OfTopic("a")) == []
    assert await _retry(sessions, Undecided()) == [b.message_id]
    async with sessions() as session:
        (of_b,) = await dead_letters.list_dead_letters(session, topic="b", state="retried", limit=10)
        assert await dead_letters.list_dead_letters(session, state="dead", limit=10) == []
    assert of_b.followers == 2, "the retried message itself does not wait"


async def test_a_paused_topic_waits_while_others_flow_and_comes_back_in_order(
    database_url: str, sessions: Sessions, ledger: Ledger
) -> None:
    broker = Broker()
    async with sessions.begin() as session:
        await operators.pause(session, "paused", by="me", reason="first")
    async with sessions() as session:
        (before,) = await status.read_topics(session)
    async with sessions.begin() as session:
        await operators.pause(session, "paused", by="you", reason="second")
    held = await ledger.add("paused", [(b"key", b"%d" % number) for number in range(20)])
    others = await ledger.add("open", [(b"key", b"other")])
    async with engine(database_url, broker):

        async def parked() -> bool:
            async with sessions() as session:
                return {topic.topic: topic.parked for topic in await status.read_topics(session)}.get("paused") == 20

        await until(parked)
        async with sessions() as session:
            (now,) = [topic for topic in await status.read_topics(session) if topic.topic == "paused"]
        assert (now.state, now.by, now.reason) == ("paused", "you", "second")
        assert now.since == before.since, "paused since the first time"
        await until(lambda: _true(broker.ids("open") == [others[0].id]))
        assert broker.ids("paused") == []
        async with sessions.begin() as session:
            assert await operators.resume(session, "paused")
        later = await ledger.add("paused", [(b"key", b"later")])
        await empty(database_url)
    assert broker.ids("paused") == [message.id for message in (*held, *later)]
    async with sessions.begin() as session:
        assert not await operators.resume(session, "paused")
        assert not await operators.resume(session, "never heard of")


async def _true(fact: bool) -> bool:
    return fact


async def test_resume_opens_what_a_breaker_closed(
    database_url: str, sessions: Sessions, ledger: Ledger, connection: asyncpg.Connection
) -> None:
    broker = Broker()
    broker.unavailable.add("t")
    async with engine(database_url, broker, relay_probe_min=600, relay_probe_max=600):
        (message,) = await ledger.add("t", [(b"key", b"x")])

        async def closed() -> bool:
            async with sessions() as session:
                return [topic.state for topic in await status.read_topics(session)] == ["closed"]

        await until(closed)
        broker.unavailable.clear()
        async with sessions.begin() as session:
            assert await operators.resume(session, "t")
        await empty(database_url)
    assert broker.ids("t") == [message.id]
    row = await connection.fetchrow("SELECT closed_at, close_reason, closures, refused_in_a_row FROM outbox_topics")
    assert tuple(row) == (None, None, 0, 0)


async def test_the_policy_continue_lets_go_what_waits_and_park_holds_again(
    database_url: str, sessions: Sessions, ledger: Ledger, connection: asyncpg.Connection
) -> None:
    broker = Broker()
    _, *followers = await _one_dead(ledger, broker, database_url)
    await _set_policy(sessions, "t", "continue")
    async with engine(database_url, broker):
        await empty(database_url)
        assert broker.ids("t") == [message.id for message in followers]
        await ledger.add("t", [(b"key", b"fourth")])
        await empty(database_url)
        await _set_policy(sessions, "t", "park")
        assert await connection.fetchval("SELECT count(*) FROM outbox_dead_letters WHERE returning_at IS NOT NULL") == 0
        (fifth,) = await ledger.add("t", [(b"key", b"fifth")])

        async def parked() -> bool:
            return bool(await connection.fetchval("SELECT id FROM outbox_parked") == fifth.id)

        await until(parked)
    assert fifth.id not in broker.ids("t")


async def _set_policy(sessions: Sessions, topic: str, policy: operators.Policy) -> None:
    async with sessions.begin() as session:
        await operators.set_policy(session, topic, policy)
    async with sessions.begin() as session:
        await operators.apply_policy(session, topic, policy)


async def test_what_a_round_parks_by_an_older_policy_is_let_go_too(
    database_url: str, sessions: Sessions, ledger: Ledger, connection: asyncpg.Connection
) -> None:
    broker = Broker()
    broker.poison.add(b"poison")
    (dead,) = await ledger.add("t", [(b"key", b"poison")])
    async with engine(database_url, broker, relay_slots=1) as relay:
        relay.wake()

        async def is_dead() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM outbox_dead_letters") == 1)

        await until(is_dead)
        # One round fetches the follower, which it will park, and a message that keeps it from settling.
        broker.gates["slow"].clear()
        async with connection.transaction():
            (follower,) = await ledger.add("t", [(b"key", b"follower")])
            await ledger.add("slow", [(b"key", b"slow")])
        await until(lambda: _true("slow" in broker.waiting))
        await _set_policy(sessions, "t", "continue")
        broker.gates["slow"].set()
        await empty(database_url)
    assert broker.ids("t") == [follower.id]
    assert dead.id < follower.id


async def test_the_status_says_how_things_are_without_a_relay(
    database_url: str, sessions: Sessions, ledger: Ledger
) -> None:
    await _one_dead(ledger, Broker(), database_url)
    await ledger.add("t", [(b"other key", b"owed")])
    async with sessions() as session:
        now = await status.read_status(session, relay_application="outbox-relay", known=("quiet",))
    topics = {topic.topic: topic for topic in now.topics}
    assert topics.keys() == {"quiet", "t"}
    assert (now.owed, now.parked, now.dead_letters, now.slots_connected) == (1, 2, 1, 0)
    assert (topics["t"].owed, topics["t"].parked, topics["t"].dead_letters, topics["t"].state) == (1, 2, 1, "open")
    assert timedelta(0) < now.oldest_owed < timedelta(minutes=5)


async def test_the_status_sees_slots_deliveries_and_a_transaction_that_stops_the_floors(
    database_url: str, sessions: Sessions, ledger: Ledger, connection: asyncpg.Connection
) -> None:
    async def read() -> status.Status:
        async with sessions() as session:
            return await status.read_status(session, relay_application="outbox-relay")

    await ledger.add("t", [(b"key", b"%d" % number) for number in range(3)])
    async with engine(database_url, Broker(), relay_slots=3):
        await empty(database_url)

        async def all_slots() -> bool:
            return (await read()).slots_connected == 3

        await until(all_slots)
        assert (await read()).delivered_last_minute == 3
    async with connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        begun = await connection.fetchval("SELECT now()")

        async def old_enough() -> bool:
            now = await read()
            return now.oldest_transaction >= timedelta(milliseconds=50) and now.at > begun

        await until(old_enough)
