"""Messages that Kafka refuses for what they are, and those that wait behind them."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg

from tests.engine import Broker, assess, connect, empty, engine
from tests.ledger import Added, Ledger
from tests.operating import begin_policy, discard, finish_policy, retry, set_policy
from tests.waiting import until


class Scene:
    """A broker that refuses payloads starting with `bad`, a relay, and one key with messages."""

    def __init__(self, database_url: str, broker: Broker, connection: asyncpg.Connection) -> None:
        self.database_url = database_url
        self.broker = broker
        self.connection = connection
        self.ledger = Ledger(connection)

    async def add(self, *payloads: bytes, key: bytes | None = b"key", topic: str = "t") -> list[Added]:
        return await self.ledger.add(topic, [(key, payload) for payload in payloads])

    async def arrived(self, messages: Iterable[Added]) -> None:
        wanted = {message.message_id for message in messages}

        async def here() -> bool:
            return wanted <= self.broker.arrived_at.keys()

        await until(here)

    async def parked(self, behind: Added, followers: Iterable[Added]) -> None:
        """Wait until these, and no others, wait behind that dead letter."""
        wanted = [message.id for message in followers]

        async def waiting() -> bool:
            rows = await self.connection.fetch("SELECT id FROM outbox_parked WHERE behind = $1 ORDER BY id", behind.id)
            dead = await self.connection.fetchval("SELECT state FROM outbox_dead_letters WHERE id = $1", behind.id)
            return [row[0] for row in rows] == wanted and dead == "dead"

        await until(waiting)

    async def judged(self, *dead: Added, free: Iterable[Added] = ()) -> None:
        await empty(self.database_url)
        left = "SELECT count(*) FROM outbox_dead_letters WHERE state <> 'dead' AND returning_at IS NOT NULL"

        async def all_returned() -> bool:
            return bool(await self.connection.fetchval(left) == 0)

        await until(all_returned)
        await assess(
            self.database_url,
            self.broker,
            self.ledger.messages,
            dead={message.message_id for message in dead},
            free={message.message_id for message in free},
        )


@asynccontextmanager
async def scene_on(database_url: str, **overrides: object) -> AsyncIterator[Scene]:
    broker = Broker()
    broker.poison = {b"bad", b"bad too"}
    async with connect(database_url) as connection, engine(database_url, broker, **overrides):
        yield Scene(database_url, broker, connection)


async def test_batch_mates_of_a_refused_message_are_delivered(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        before = await scene.add(b"1", b"2")
        (bad,) = await scene.add(b"bad", key=b"other")
        mates = [(b"key", b"3"), (b"other", b"bad"), (None, b"4"), (b"third", b"5")]
        together = await scene.ledger.add("t", mates)
        follower = together.pop(1)
        await scene.arrived(before + together)
        await scene.parked(bad, [follower])
        reasons = await scene.connection.fetch("SELECT id, reason, refusals FROM outbox_dead_letters")
        assert [tuple(row) for row in reasons] == [(bad.id, "MESSAGE_TOO_LARGE", 1)]
        await discard(scene.database_url, bad)
        await scene.parked(follower, [])
        await scene.judged(bad, follower)


async def test_followers_wait_and_return_in_order_after_retry(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        first, bad, *followers = await scene.add(b"1", b"bad", b"3", b"4")
        await scene.parked(bad, followers)
        followers += await scene.add(b"5", b"6")  # come up later
        strangers = await scene.add(b"7", key=b"stranger")
        elsewhere = await scene.add(b"8", topic="u")
        await scene.arrived([first, *strangers, *elsewhere])
        await scene.parked(bad, followers)
        scene.broker.poison.clear()
        await retry(scene.database_url, bad)
        followers += await scene.add(b"9")
        await scene.arrived(followers)
        assert scene.broker.ids("t", b"key") == [first.id, bad.id, *(message.id for message in followers)]
        await scene.judged()


async def test_followers_return_in_order_after_discard(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        first, bad, *followers = await scene.add(b"1", b"bad", b"3", b"4")
        await scene.parked(bad, followers)
        await discard(scene.database_url, bad)
        followers += await scene.add(b"5")
        await scene.arrived(followers)
        assert scene.broker.ids("t", b"key") == [first.id, *(message.id for message in followers)]
        await scene.judged(bad)


async def test_more_followers_than_one_fetch_takes_return_in_order(database_url: str) -> None:
    async with scene_on(database_url, relay_batch_messages=7, relay_light_messages=3) as scene:
        bad, *followers = await scene.add(b"bad", *(b"%d" % n for n in range(50)))
        await scene.parked(bad, followers)
        scene.broker.poison.clear()
        await retry(scene.database_url, bad)
        for number in range(20):
            followers += await scene.add(b"later %d" % number)
        await scene.arrived(followers)
        assert scene.broker.ids("t", b"key") == [bad.id, *(message.id for message in followers)]
        await scene.judged()


async def test_retried_and_refused_again_it_holds_its_followers_again(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        bad, *followers = await scene.add(b"bad", b"2", b"3")
        await scene.parked(bad, followers)
        await retry(scene.database_url, bad)

        async def refused_twice() -> bool:
            query = "SELECT refusals = 2 AND state = 'dead' AND decided_at IS NULL FROM outbox_dead_letters"
            return bool(await scene.connection.fetchval(query))

        await until(refused_twice)
        await scene.parked(bad, followers)
        followers += await scene.add(b"4")
        await scene.parked(bad, followers)
        assert scene.broker.ids("t", b"key") == []
        scene.broker.poison.clear()
        await retry(scene.database_url, bad)
        await scene.arrived([bad, *followers])
        await scene.judged()


async def test_two_dead_letters_of_one_key(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        bad, second, worse, *rest = await scene.add(b"bad", b"2", b"bad too", b"4", b"5")
        await scene.parked(bad, [second, worse, *rest])
        await discard(scene.database_url, bad)
        await scene.arrived([second])
        await scene.parked(worse, rest)
        rest += await scene.add(b"6")
        await scene.parked(worse, rest)
        scene.broker.poison.clear()
        await retry(scene.database_url, worse)
        await scene.arrived(rest)
        assert scene.broker.ids("t", b"key") == [second.id, worse.id, *(message.id for message in rest)]
        await scene.judged(bad)


async def test_the_policy_continue_holds_nobody(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        await set_policy(scene.database_url, "t", "continue")
        first, bad, *others = await scene.add(b"1", b"bad", b"3", b"4")
        await scene.arrived([first, *others])
        others += await scene.add(b"5")
        await scene.arrived(others)
        scene.broker.poison.clear()
        await retry(scene.database_url, bad)
        await scene.arrived([bad])
        await scene.judged(free=[bad])


async def test_a_message_without_a_key_has_no_followers(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        bad, *others = await scene.add(b"bad", b"2", b"3", key=None)
        await scene.arrived(others)
        await scene.judged(bad)


async def test_refusals_in_a_row_close_the_topic_instead(database_url: str) -> None:
    async with scene_on(database_url, refusals_to_close=3) as scene:
        bad = [(await scene.add(b"bad", key=b"key %d" % number))[0] for number in range(6)]
        state = "SELECT closed_at IS NOT NULL FROM outbox_topics"
        await until(lambda: scene.connection.fetchval(state))
        assert await scene.connection.fetchval("SELECT count(*) FROM outbox_dead_letters") < 3
        good = await scene.add(b"good", key=b"good")
        scene.broker.poison.clear()
        await scene.arrived(good)
        assert not await scene.connection.fetchval(state)
        dead = [row[0] for row in await scene.connection.fetch("SELECT id FROM outbox_dead_letters")]
        await scene.judged(*(message for message in bad if message.id in dead))


async def test_who_waited_is_let_go_when_the_policy_becomes_continue(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        bad, *followers = await scene.add(b"bad", b"2", b"3")
        await scene.parked(bad, followers)
        await set_policy(scene.database_url, "t", "continue")
        followers += await scene.add(b"4")
        await scene.arrived(followers)
        await set_policy(scene.database_url, "t", "park")
        late = await scene.add(b"5")
        await scene.parked(bad, late)
        await discard(scene.database_url, bad)
        await scene.judged(bad, free=followers)


async def test_nobody_passes_those_who_wait_while_the_policy_becomes_continue(database_url: str) -> None:
    async with scene_on(database_url) as scene:
        bad, *followers = await scene.add(b"bad", b"2", b"3")
        await scene.parked(bad, followers)
        await begin_policy(scene.database_url, "t", "continue")
        followers += await scene.add(b"4")
        await scene.parked(bad, followers)
        await finish_policy(scene.database_url, "t", "continue")
        await scene.arrived(followers)
        assert scene.broker.ids("t", b"key") == [message.id for message in followers]
        await scene.judged(bad)
