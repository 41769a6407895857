"""Apache Kafka from an unpacked distribution, as processes of this one."""

import asyncio
import base64
import fcntl
import functools
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from app.embedded.process import SupervisedProcess
from tests.services.brokers import OwnKafka, cluster_properties
from tests.services.ports import free_port

_CLUSTER_ID = "b3V0Ym94LXRlc3RzLTAwMA"
_QUICK = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# Started with this, a broker is ready for half the work of the processor; one that lasts is slower by it. Given twice,
# because not every distribution's scripts read the second variable, and one that does has another collector there.
_QUICK_JAVA = {"KAFKA_HEAP_OPTS": f"-Xms256m -Xmx512m {_QUICK}", "KAFKA_JVM_PERFORMANCE_OPTS": _QUICK}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What each new cluster starts with.

    `checkpoint`: the file with the features of a new cluster, the same for each, and known only to Kafka's own tool.
    `java`: the variables of its scripts.
    """

    checkpoint: bytes
    java: Mapping[str, str]


class NativeKafka:
    """`Brokers` as Java processes on free ports. They end with this process, however it ends."""

    def __init__(
        self,
        home: Path,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        *,
        advertised: Mapping[int, tuple[int, int]] | None = None,
        java: Mapping[str, str] | None = None,
        prepared: Path | None = None,
    ) -> None:
        """`advertised`: for each broker the port of a second listener, and the port of a proxy before it that its
        clients are told to come to; brokers among themselves, and clients of the first listener, go past the proxies.
        `java`: variables of Kafka's scripts instead of those for being there soon; with none it lasts, with the memory
        and the virtual machine that the distribution has by default. `prepared`: a folder for what all brokers start
        with, which other processes use too.
        """
        self._home = home
        self._java = java
        self._prepared = prepared
        self._advertised = advertised or {}
        self._directory = tempfile.TemporaryDirectory(prefix="outbox-kafka-")
        self._ports = {number: (free_port(), free_port()) for number in range(1, brokers + 1)}
        self._properties = {**cluster_properties(brokers), **(properties or {})}
        self._processes: dict[int, SupervisedProcess] = {}
        self.bootstrap_servers = ",".join(f"127.0.0.1:{port}" for port, _ in self._ports.values())

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the brokers that run."""
        return {number: process.pid for number, process in self._processes.items() if process.running}

    async def start(self) -> None:
        prepared = await asyncio.to_thread(_prepare, self._home, self._prepared)
        for number in self._ports:
            self._format(number, prepared.checkpoint)
            await self.start_broker(number)

    async def start_broker(self, broker: int) -> None:
        folder = self._folder(broker)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._processes[broker] = SupervisedProcess(
                [str(self._home / "bin" / "kafka-server-start.sh"), str(folder / "server.properties")],
                log=log,
                ending=signal.SIGKILL,
                environment=self._environment(folder),
            )
        finally:
            os.close(log)

    async def stop_broker(self, broker: int) -> None:
        self._processes[broker].signal(signal.SIGTERM)
        ended = await asyncio.to_thread(self._processes[broker].wait, timedelta(seconds=60))
        assert ended, f"broker {broker} did not stop: {self.log(broker)}"

    async def kill(self, broker: int) -> None:
        self._processes[broker].signal(signal.SIGKILL)
        await asyncio.to_thread(self._processes[broker].wait, timedelta(seconds=30))

    async def pause(self, broker: int) -> None:
        self._processes[broker].signal(signal.SIGSTOP)

    async def resume(self, broker: int) -> None:
        self._processes[broker].signal(signal.SIGCONT)

    async def run_tool(self, tool: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(self._home / "bin" / tool),
            *("--bootstrap-server", self.bootstrap_servers),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment(self._folder(1)),
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def remove(self) -> None:
        for broker in self._processes:
            await self.kill(broker)
        self._directory.cleanup()

    def log(self, broker: int) -> str:
        """The end of what the broker has logged."""
        return (self._folder(broker) / "log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def _environment(self, folder: Path) -> dict[str, str]:
        usual = _prepare(self._home, self._prepared).java
        return _environment(folder, usual if self._java is None else self._java)

    def _folder(self, broker: int) -> Path:
        return Path(self._directory.name) / str(broker)

    def _format(self, broker: int, checkpoint: bytes) -> None:
        folder = self._folder(broker)
        (folder / "data").mkdir(parents=True)
        client_port, controller_port = self._ports[broker]
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, (_, port) in self._ports.items())
        properties = {
            "node.id": str(broker),
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{client_port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client_port}",
            "log.dirs": str(folder / "data"),
            **self._properties,
        }
        if broker in self._advertised:
            listening, told = self._advertised[broker]
            properties["listeners"] += f",HOST://127.0.0.1:{listening}"
            properties["advertised.listeners"] += f",HOST://127.0.0.1:{told}"
            properties["inter.broker.listener.name"] = "PLAINTEXT"
        _write_properties(folder / "server.properties", properties)
        # What `kafka-storage.sh format` would write, without a Java process for each broker.
        identity = {
            "version": "1",
            "cluster.id": _CLUSTER_ID,
            "node.id": str(broker),
            "directory.id": _new_id(),
        }
        _write_properties(folder / "data" / "meta.properties", identity)
        (folder / "data" / "bootstrap.checkpoint").write_bytes(checkpoint)


@functools.cache
def _prepare(home: Path, folder: Path | None) -> _Prepared:
    """What is prepared in the folder; whoever comes first does it. Without one, what is worth it for a few brokers."""
    if folder is None:
        return _Prepared(_features(home), _QUICK_JAVA)
    checkpoint, classes = folder / "bootstrap.checkpoint", folder / "classes.jsa"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if not classes.exists():
            checkpoint.write_bytes(_prepare(home, None).checkpoint)
            asyncio.run(_archive(home, classes))
    return _Prepared(checkpoint.read_bytes(), {**_QUICK_JAVA, "KAFKA_OPTS": f"-XX:SharedArchiveFile={classes}"})


def _features(home: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="outbox-kafka-") as name:
        folder = Path(name)
        properties = {
            **cluster_properties(1),
            "node.id": "1",
            "controller.quorum.voters": "1@127.0.0.1:9093",
            "listeners": "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
            "log.dirs": str(folder / "data"),
        }
        _write_properties(folder / "server.properties", properties)
        tool = [str(home / "bin" / "kafka-storage.sh"), "format", "-t", _CLUSTER_ID]
        formatted = subprocess.run(
            [*tool, "-c", str(folder / "server.properties")],
            env=_environment(folder, _QUICK_JAVA),
            capture_output=True,
            text=True,
            check=False,
        )
        assert formatted.returncode == 0, formatted.stdout + formatted.stderr
        return (folder / "data" / "bootstrap.checkpoint").read_bytes()


async def _archive(home: Path, classes: Path) -> None:
    """Write down the classes that a broker loads: one that finds them ready starts for two thirds of the work."""
    brokers = NativeKafka(home, java={**_QUICK_JAVA, "KAFKA_OPTS": f"-XX:ArchiveClassesAtExit={classes}"})
    try:
        await OwnKafka(brokers, 1).start()
        await brokers.stop_broker(1)
    finally:
        await brokers.remove()


def _environment(folder: Path, java: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "HOME") if name in os.environ}
    return {**inherited, **java, "EXTRA_ARGS": "", "LOG_DIR": str(folder)}  # no log of the garbage collector


def _write_properties(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()), encoding="utf-8")


def _new_id() -> str:
    """An id as Kafka writes them; it refuses those that begin like an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")).startswith("-"):
        pass
    return text
