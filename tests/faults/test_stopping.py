"""The API and a worker are told to stop with work in hand: they end in time, and what was in hand is done once.

For the relay see `tests/integration/test_stop.py`.
"""

import asyncio
import signal
from contextlib import suppress
from datetime import timedelta

import httpx2
import pytest

from tests.armed import Child, child
from tests.engine import connect
from tests.failpoints import Action, Fault
from tests.points import answering
from tests.points.ingesting import TIDY, environment, lying
from tests.services.kafka import Kafka
from tests.services.ports import free_port

pytestmark = pytest.mark.real_kafka

_DEADLINE, _MARGIN = timedelta(seconds=3), timedelta(seconds=12)
_AT_ONCE = timedelta(seconds=5)
_HASTY = {"consumer_database_deadline": 2, "consumer_drain_deadline": _DEADLINE.total_seconds()}
_WAYS = pytest.mark.parametrize("way", ["told", "told twice", "told and killed"])


async def _stop(process: Child, way: str) -> None:
    """SIGTERM; then a second one, or SIGKILL as after a grace period."""
    process.terminate()
    await process.says("stop.asked")
    match way:
        case "told":
            await process.ends(0, _DEADLINE + _MARGIN)
        case "told twice":
            process.terminate()
            await process.ends(128 + signal.SIGTERM, _AT_ONCE)
        case _:
            process.kill()
            await process.ends(-signal.SIGKILL, _AT_ONCE)


@_WAYS
async def test_a_worker_with_a_batch_in_hand(kafka: Kafka, database_url: str, way: str) -> None:
    fault = Fault("ingest.before_commit", Action.SLEEP, seconds=60)
    async with lying(database_url, kafka, TIDY) as it:
        settings = environment(it.users)
        async with child("worker", fault=fault, settings=settings | _HASTY) as stopping:
            await stopping.is_struck()
            await _stop(stopping, way)
        await it.not_ahead()
        async with child("worker", settings=settings) as heir:
            await heir.says("worker.ready")
            await it.judge()
            await heir.stop()


async def test_a_worker_with_a_batch_that_does_not_end(kafka: Kafka, database_url: str) -> None:
    # It is outside of any transaction, so no deadline but that of stopping ends it.
    fault = Fault("ingest.in_parse", Action.SLEEP, seconds=60)
    async with lying(database_url, kafka, TIDY) as it:
        settings = environment(it.users)
        async with child("worker", fault=fault, settings=settings | _HASTY) as stopping:
            await stopping.is_struck()
            await _stop(stopping, "told")
            assert "worker.stopped_late" in stopping.log
        await it.not_ahead()
        async with child("worker", settings=settings) as heir:
            await heir.says("worker.ready")
            await it.judge()
            await heir.stop()


@_WAYS
async def test_an_api_with_a_request_in_hand(database_url: str, way: str) -> None:
    fault = Fault("api.before_commit", Action.SLEEP, seconds=60)
    port = free_port()
    command, settings = ("api", "--port", str(port)), answering.settings(database_url)
    # No deadline but that of stopping ends the request.
    hasty = {"api_stop_deadline": _DEADLINE.total_seconds(), "api_database_deadline": 60, "log_level": "info"}
    body, key = {"user_name": "Anna", "description": "d"}, {"idempotency-key": "key-1"}
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
        connect(database_url) as watcher,
    ):
        async with child(*command, fault=fault, settings=settings | hasty) as stopping:
            await answering.listening(stopping, port)

            async def ask() -> int | None:
                with suppress(httpx2.TransportError):
                    return (await http.post("/applications", json=body, headers=key)).status_code
                return None

            asking = asyncio.create_task(ask())
            await stopping.is_struck()
            await _stop(stopping, way)
            # It knows no more than that it does not know.
            answer = await asking
            assert answer is None or httpx2.codes.is_server_error(answer)
        async with child(*command, settings=settings) as heir:
            await answering.listening(heir, port)
            answers = [await http.post("/applications", json=body, headers=key) for _ in range(2)]
            await heir.stop()
        assert [answer.status_code for answer in answers] == [httpx2.codes.CREATED] * 2
        assert answers[0].json() == answers[1].json()
        stored = await watcher.fetch("SELECT id FROM applications")
        assert [row[0] for row in stored] == [answers[0].json()["id"]]
        assert await watcher.fetchval("SELECT count(*) FROM outbox_messages") == 1
