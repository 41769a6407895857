"""Processes of the program with a fault armed; the program itself knows no way to ask for one.

    python -m tests.armed POINT ACTION NTH SECONDS COMMAND...

runs `outbox COMMAND...`. `child` does the same in a copy of a process that has imported everything, which spares each
of many children a second.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from app import failpoints
from app.cli import main as outbox
from tests.failpoints import EXIT_STATUS, Action, Armed, Fault
from tests.waiting import until

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.armed", "app.main", "app.worker", "app.cli.services", "relay.loop"])
_LONG = timedelta(seconds=60)
_STRUCK = "the fault strikes"

Program = Callable[[list[str]], None]


class Child:
    """One process, running or not."""

    def __init__(self, process: ForkServerProcess, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def says(self, word: str) -> None:
        """Wait until its log has this word."""

        async def said() -> bool:
            self.lives()
            return word in self.log

        await until(said, _LONG)

    async def is_struck(self) -> None:
        """Wait until its fault has struck."""
        await self.says(_STRUCK)

    def lives(self) -> None:
        """Fail the test unless it runs."""
        assert self._process.exitcode is None, f"it ended with {self._process.exitcode}: {self.log}"

    async def stop_soon(self, word: str) -> None:
        """Tell it to stop once its log has this word; whatever comes of that."""
        await self.says(word)
        self.terminate()

    async def dies(self, timeout: timedelta = _LONG) -> None:
        """Wait until it has died of its fault."""
        await self.ends(EXIT_STATUS, timeout)

    async def stop(self) -> None:
        """Tell it to stop, which it must do in an orderly way."""
        self.terminate()
        await self.ends(0)

    async def ends(self, expected: int, timeout: timedelta = _LONG) -> None:
        """Wait until it has ended in this way."""
        status = await self._end(timeout)
        assert status == expected, f"it ended with {status}: {self.log}"

    def terminate(self) -> None:
        """Tell it to stop."""
        self._process.terminate()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it here and now."""
        self._process.kill()

    async def _end(self, timeout: timedelta) -> int:
        async def ended() -> bool:
            return self._process.exitcode is not None

        await until(ended, timeout)
        assert self._process.exitcode is not None
        return self._process.exitcode


@asynccontextmanager
async def child(
    *command: str, fault: Fault | None = None, program: Program = outbox, settings: Mapping[str, object]
) -> AsyncIterator[Child]:
    """A process that runs this command with these settings; killed at the end of the block if it still runs."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "HOME", "TMP"))}
    environment |= {"LOG_FORMAT": "json"} | {name.upper(): str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="outbox-armed-") as folder:
        log = Path(folder) / "log"
        log.touch()
        process = _FORKING.Process(target=_run, args=(fault, program, list(command), environment, log), daemon=True)
        # Not in a thread: each start also asks all earlier processes for their ends, which only one may hear of.
        process.start()
        try:
            yield Child(process, log)
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
            process.close()


def _run(fault: Fault | None, program: Program, command: list[str], environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    run(fault, program, command)


def _tell() -> None:
    os.write(sys.stdout.fileno(), f"{_STRUCK}\n".encode())


def run(fault: Fault | None, program: Program, command: Sequence[str]) -> None:
    """Run the program in this process, with this fault."""
    if fault is not None:
        failpoints.hook = Armed(fault, tell=_tell)
    program(list(command))


if __name__ == "__main__":
    point, action, nth, seconds, *command = sys.argv[1:]
    run(Fault(point, Action(action), int(nth), float(seconds)), outbox, command)
