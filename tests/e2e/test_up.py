"""`outbox up`: everything on a machine where nothing is installed."""

import asyncio
import importlib.util
import os
import re
import signal
import socket
import tempfile
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from app.cli import embedded
from app.kafka.reader import read
from app.settings import load
from tests.command import command, process_environment
from tests.engine import connect, empty
from tests.waiting import until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("confluent_kafka") is None, reason="needs the packages of requirements-embedded.txt"
)

_PATIENCE = timedelta(seconds=60)


class Up:
    """A running `outbox up`, and what it said until it was ready."""

    def __init__(self, process: Process, said: str) -> None:
        self.process = process
        self.said = said
        self.url = self.after("API")
        self.bootstrap_servers = self.after("Kafka")

    def after(self, word: str) -> str:
        found = re.search(rf"^{word} +(\S+)", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        out, _ = await asyncio.wait_for(self.process.communicate(), _PATIENCE.total_seconds())
        assert out.decode().endswith("stopped\n")
        assert self.process.returncode is not None
        return self.process.returncode


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="outbox-up-") as path:
        os.chmod(path, 0o711)  # noqa: S103, PTH101 - as root the server runs as another user, who must get through
        yield Path(path)


async def _start(folder: Path, *arguments: object, **settings: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *command("up", "--data-dir", folder / "data", *arguments),
        env=process_environment(**settings),
        cwd=folder,
        stdout=PIPE,
        stderr=PIPE,
        limit=2**20,
    )


@asynccontextmanager
async def up(folder: Path, *arguments: object) -> AsyncIterator[Up]:
    process = await _start(folder, "--port", "0", *arguments)
    try:
        yield Up(process, await asyncio.wait_for(_until_ready(process), _PATIENCE.total_seconds()))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _until_ready(process: Process) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    said = ""
    while "Ctrl-C stops it." not in said:
        line = await process.stdout.readline()
        assert line, said + (await process.stderr.read()).decode()
        said += line.decode()
    return said


async def test_it_shows_an_application_arriving_and_serves(folder: Path) -> None:
    async with up(folder) as running:
        assert "201 " in running.said
        for part in (
            "topic      applications.events",
            "header     ce_type: application.created",
            "key        1",
            "Providers   ",
        ):
            assert part in running.said
        async with httpx2.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/readyz")).json()["checks"].keys() == {
                "database",
                "migrations",
                "relay",
                "consumer users",
                "consumer integration-tasks",
                "providers",
            }
            assert (await client.post("/applications", json={"user_name": "b", "description": "d"})).status_code == 201
        settings = load(_env_file=None, kafka_bootstrap_servers=running.bootstrap_servers)
        records = await read(
            settings, [settings.applications_topic], enough=lambda found: len(found) == 2, patience=_PATIENCE
        )
        assert [record.key for record in sorted(records, key=lambda record: record.key or b"")] == [b"1", b"2"]
        assert await running.stop() == 0


async def test_data_is_there_after_a_restart_and_what_was_delivered_is_not_sent_again(folder: Path) -> None:
    async with up(folder) as running:
        assert await running.stop(signal.SIGTERM) == 0
    async with up(folder, "--no-first-message") as running:
        async with httpx2.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/applications")).json()["total"] == 1
            await client.post("/applications", json={"user_name": "b", "description": "d"})
        settings = load(_env_file=None, kafka_bootstrap_servers=running.bootstrap_servers)
        records = await read(
            settings, [settings.applications_topic], enough=lambda found: len(found) >= 1, patience=_PATIENCE
        )
        assert [record.key for record in records] == [b"2"]
        assert await running.stop() == 0
    async with up(folder, "--fresh", "--no-first-message") as running:
        async with httpx2.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/applications")).json()["total"] == 0
        assert await running.stop() == 0


async def test_what_was_not_delivered_before_a_crash_is_delivered_after_it(folder: Path) -> None:
    async with up(folder, "--no-first-message") as running:
        async with httpx2.AsyncClient(base_url=running.url) as client:
            posted = [client.post("/applications", json={"user_name": "b", "description": "d"}) for _ in range(20)]
            assert {answer.status_code for answer in await asyncio.gather(*posted)} == {201}
        running.process.send_signal(signal.SIGKILL)
        await running.process.communicate()
    async with up(folder, "--no-first-message") as running:
        async with httpx2.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/applications")).json()["total"] == 20
        password = (folder / "data" / "password").read_text(encoding="ascii")
        database_url = f"postgresql://postgres:{password}@{running.after('PostgreSQL')}"
        await empty(database_url)
        async with connect(database_url) as connection:
            assert await connection.fetchval("SELECT count(DISTINCT message_id) FROM outbox_receipts") == 20
        assert await running.stop() == 0


async def _fails(folder: Path, *arguments: object, **settings: str) -> tuple[int | None, str]:
    process = await _start(folder, *arguments, **settings)
    _, err = await asyncio.wait_for(process.communicate(), _PATIENCE.total_seconds())
    return process.returncode, err.decode()


async def test_a_taken_port_is_one_line_with_the_way_out_and_nothing_is_started(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = await _fails(folder, "--port", port)
    assert (code, said.count("\n")) == (2, 1)
    assert f"port {port}" in said
    assert "--port 0" in said
    assert not (folder / "data").exists()


async def test_a_wrong_setting_is_one_line_and_nothing_is_started(folder: Path) -> None:
    code, said = await _fails(folder, "--port", 0, PUBLISH_DEADLINE="soon")
    assert (code, said.count("\n")) == (2, 1)
    assert "PUBLISH_DEADLINE" in said
    assert not (folder / "data").exists()


async def test_a_second_one_on_the_same_data_is_told_of_the_first(folder: Path) -> None:
    async with up(folder, "--no-first-message") as running:
        code, said = await _fails(folder, "--port", 0)
        assert (code, said.count("\n")) == (1, 1)
        assert f"already running (pid {running.process.pid})" in said
        assert await running.stop() == 0


def test_the_thread_that_gets_ctrl_c_imports_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some library would swallow it.
    importers = []
    monkeypatch.setattr(embedded, "import_all", lambda: importers.append(threading.current_thread()))
    with embedded.services(folder / "data", {}, durable=False):
        assert len(importers) == 1
        assert threading.main_thread() not in importers


async def test_ctrl_c_before_it_is_ready_leaves_nothing_running(folder: Path) -> None:
    process = await _start(folder, "--port", "0")

    async def is_starting() -> bool:
        return (folder / "data" / "lock").exists()

    await until(is_starting)
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), _PATIENCE.total_seconds())
    assert process.returncode == 130
    pid_file = folder / "data" / "cluster" / "postmaster.pid"
    if pid_file.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text(encoding="utf-8").split()[0]), 0)
