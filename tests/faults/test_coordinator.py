"""A consumer that loses its group: its coordinator moves or refuses offsets, or it stood still for too long."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.command import ROOT
from tests.consuming import Consuming, answered, consuming, kafka_settings, lag, process_settings, send
from tests.faults.committing import LONG, all_told, coordinator, effects, held, lost, refusals, supervised, told
from tests.services.brokers import OwnKafka
from tests.services.fixtures import PrivateKafka
from tests.services.kafka import Kafka, MockKafka
from tests.waiting import until

_OFFSET_COMMIT = 8
_MANY = 5

COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS = 22, 25, 27


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        COORDINATOR_LOAD_IN_PROGRESS,
        COORDINATOR_NOT_AVAILABLE,
        NOT_COORDINATOR,
        ILLEGAL_GENERATION,
        UNKNOWN_MEMBER_ID,
        REBALANCE_IN_PROGRESS,
    ],
)
async def test_offsets_are_refused(
    database_url: str, mock_kafka: Callable[[], MockKafka], caplog: pytest.LogCaptureFixture, code: int
) -> None:
    kafka = mock_kafka()
    async with consuming(database_url, **await kafka_settings(kafka)) as users, supervised(users) as consumer:
        await send(kafka, users, range(20))
        await answered(users, 20)
        member = consumer._member
        kafka.mock.push_request_errors(_OFFSET_COMMIT, [code] * _MANY)
        with refusals(caplog) as seen:
            with held(consumer) as in_hand:
                await send(kafka, users, range(20, 40))
                await asyncio.wait_for(in_hand.wait(), LONG.total_seconds())
                assert not await told(kafka, users, 40)
            await answered(users, 40)
            await all_told(kafka, users, 40)
            assert seen, "nothing was refused"
        assert consumer._member is member, "it was started anew"
        await effects(users, 40)


@pytest.mark.slow
@pytest.mark.real_kafka
async def test_the_coordinator_dies(
    private_kafka: PrivateKafka, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    kafka = await private_kafka(brokers=3, properties={"leader.imbalance.check.interval.seconds": "1"})
    patient = {"consumer_session_timeout": 60.0}  # longer than it takes a broker to come back
    async with (
        consuming(database_url, **await kafka_settings(kafka) | patient) as users,
        supervised(users) as consumer,
    ):
        await send(kafka, users, range(20))
        await answered(users, 20)
        member, victim = consumer._member, coordinator(consumer).coordinator_id
        with held(consumer) as in_hand:
            await send(kafka, users, range(20, 40))
            await asyncio.wait_for(in_hand.wait(), LONG.total_seconds())
            assert not await told(kafka, users, 40)
            await kafka.brokers.kill(victim)

        async def another_one() -> bool:
            return coordinator(consumer).coordinator_id not in (victim, None)

        async def back() -> bool:
            async with kafka.admin() as admin:
                return bool(await admin.find_coordinator(users.settings.users_group) == victim)

        await until(another_one, LONG)
        await answered(users, 40)
        await all_told(kafka, users, 40)
        with refusals(caplog) as seen:
            await _keep_offsets_on(kafka, 3)
            await send(kafka, users, range(40, 60))
            await seen.come("GroupCoordinatorNotAvailableError")
            await _keep_offsets_on(kafka, 2)
            await answered(users, 60)
            await all_told(kafka, users, 60)
            with pytest.MonkeyPatch.context() as patch:
                # By its heartbeats it would soon know that the group goes back to where it was first. There is nothing
                # that it still has to tell its coordinator: it does not look for another one by itself.
                patch.setattr(coordinator(consumer), "_do_heartbeat", lost)
                await kafka.brokers.start_broker(victim)
                await kafka.wait_until_ready(3)
                await until(back, LONG)
                await send(kafka, users, range(60, 80))
                await seen.come("NotCoordinatorForGroupError")
            await answered(users, 80)
            await all_told(kafka, users, 80)
        assert coordinator(consumer).coordinator_id == victim
        assert consumer._member is member, "it was started anew"
        await effects(users, 80)


async def _keep_offsets_on(kafka: OwnKafka, replicas: int) -> None:
    """Let offsets be refused while there are fewer replicas of them. All other settings stay as Kafka made them."""
    settings = {"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": "104857600"}
    settings["min.insync.replicas"] = str(replicas)
    async with kafka.admin() as admin:
        (answer,) = await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, "__consumer_offsets", settings)]
        )
        assert not answer.resources[0][0], answer


# A worker whose parser blocks the event loop once, at one request, until it is let go.
_SESSION = timedelta(seconds=3)
_WORKER = """
import pathlib, sys, time
from app.users import xml
parse = xml.parse
blocked, go_on = map(pathlib.Path, sys.argv[1:])
def slow(document, **options):
    if b"13@example.com" in document and not blocked.exists():
        blocked.touch()
        while not go_on.exists():
            time.sleep(0.01)
    return parse(document, **options)
xml.parse = slow
from app.cli import main
main(["worker", "--port", "0"])
"""


class _Worker:
    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    def says(self, event: str) -> list[dict[str, object]]:
        """Its lines of this kind, each with its values."""
        assert self._process.returncode is None, self._log.read_text(encoding="utf-8")
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line.get("event") == event]

    async def measured(self, metric: str) -> float:
        """The value of one of its metrics."""
        (ready,) = await until(lambda: self._said("worker.ready"), LONG)
        async with httpx2.AsyncClient(timeout=30) as client:
            lines = (await client.get(f"{ready['url']}/metrics")).text.splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(metric + " ")]
        return float(value)

    async def _said(self, event: str) -> list[dict[str, object]]:
        return self.says(event)

    async def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self._process.wait(), 30) == 0, self._log.read_text(encoding="utf-8")


@asynccontextmanager
async def _worker(users: Consuming, folder: Path, name: str) -> AsyncIterator[_Worker]:
    log = folder / name
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _WORKER, str(folder / "blocked"), str(folder / "go-on")),
            env=process_settings(users, session=_SESSION) | {"CONSUMER_HANG_LIMIT": "300"},
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        yield _Worker(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
@pytest.mark.real_kafka
async def test_a_worker_that_stands_still_for_longer_than_its_session(database_url: str, kafka: Kafka) -> None:
    """It is put out of its group with a batch in hand, and somebody else does that batch; then it wakes up."""
    async with consuming(database_url, **await kafka_settings(kafka)) as users:
        with TemporaryDirectory(prefix="outbox-workers-") as name:
            folder = Path(name)
            await send(kafka, users, range(40))
            async with _worker(users, folder, "first") as first:

                async def blocked() -> bool:
                    return (folder / "blocked").exists()

                await until(blocked, timedelta(seconds=60))
                async with _worker(users, folder, "second") as second:
                    # All of it is done while the first one stands still.
                    await until(lambda: _all(users, 40), timedelta(seconds=60))
                    assert second.says("consumer.assigned")
                    (folder / "go-on").touch()

                    async def awake() -> bool:
                        return bool(first.says("loop.stood_still"))

                    await until(awake, timedelta(seconds=60))
                    (alarm,) = first.says("loop.stood_still")
                    seconds = alarm["seconds"]
                    assert isinstance(seconds, float)
                    assert seconds > _SESSION.total_seconds() / 3
                    assert await first.measured("loop_late_seconds_sum") > _SESSION.total_seconds() / 3

                    async def member_again() -> bool:
                        return len(first.says("consumer.assigned")) >= 2

                    await until(member_again, timedelta(seconds=60))
                    await send(kafka, users, range(40, 80))
                    await until(lambda: _all(users, 80), timedelta(seconds=60))

                    async def read() -> bool:
                        return await lag(kafka, users) == 0

                    await until(read, timedelta(seconds=60))
                    await effects(users, 80)
                    await first.stop()
                    await second.stop()


async def _all(users: Consuming, number: int) -> bool:
    return len(await users.owed()) >= number
