"""Other processes: what they cost, and how the bench talks to those that it started."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = timedelta(seconds=120)
_LINE = 1 << 26
"""Bytes of the longest line that a child may print."""


def can_measure() -> bool:
    """CPU and memory of other processes are read from /proc, which Linux has."""
    return (_PROC / "self" / "stat").exists()


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that these processes used so far, all their threads and the children that ended included."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended; its parent counts it from now on
            total += sum(int(ticks) for ticks in _stat(pid)[11:15])
    return total / _TICKS


def family(pid: int) -> list[int]:
    """The process and its children: of PostgreSQL, the server with all its backends."""
    found = [pid]
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry.name))[1]) == pid:
                    found.append(int(entry.name))
    return found


def peak_memory(pid: int) -> int:
    """The most memory, in bytes, that the process ever had resident."""
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {pid} has no memory")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces: state is the first, parent the second."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


class Child:
    """A module of the bench in a process of its own; it prints and reads JSON, a value a line."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hear(self) -> Any:
        """The next value that it prints. Raises RuntimeError when it ends instead."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with status {await self._process.wait()}")
        return json.loads(line)

    def say(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still during the block."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def child(module: str, environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Child]:
    """Start `python -m MODULE`; at the end of the block its input is closed, and it must end by itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
        limit=_LINE,
    )
    try:
        yield Child(process, module)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
