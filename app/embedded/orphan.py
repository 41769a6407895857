"""A server that outlived its starter, or only its pid file."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

_PROCESSES = Path("/proc")
_POLL_INTERVAL = timedelta(milliseconds=10)
_WATCHER_PATIENCE = timedelta(seconds=5)  # the orphan's watcher is stopping it already
_STEPS = (
    (signal.SIGINT, timedelta(seconds=10)),
    (signal.SIGQUIT, timedelta(seconds=5)),
    (signal.SIGKILL, timedelta(seconds=5)),
)


def end_orphan(cluster: Path) -> None:
    """Make sure that no server runs on `cluster`, and that no pid file claims that one does.

    The caller holds the data directory's lock: whatever still runs has lost the process that started it.
    PostgreSQL alone would refuse to start when, after a crash or a reboot, an unrelated process has the pid
    in the file, and when the killed server has not been reaped.
    """
    pid_file = cluster / "postmaster.pid"
    pid = _read_pid(pid_file)
    if pid is None:
        return
    if not _PROCESSES.is_dir():
        # The pid may be anybody's by now: only wait, and leave the judgement to PostgreSQL.
        _wait(lambda: not _exists(pid), _WATCHER_PATIENCE)
        return
    gone = _wait(lambda: not _serves(pid, cluster), _WATCHER_PATIENCE)
    for number, patience in _STEPS:
        if gone:
            break
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, number)
        gone = _wait(lambda: not _serves(pid, cluster), patience)
    if gone:
        pid_file.unlink(missing_ok=True)


def _wait(condition: Callable[[], bool], patience: timedelta) -> bool:
    deadline = time.monotonic() + patience.total_seconds()
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL.total_seconds())
    return True


def _read_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _serves(pid: int, cluster: Path) -> bool:
    """Whether that process is a server on this cluster: its working directory says so (a zombie has none)."""
    try:
        return (_PROCESSES / str(pid) / "cwd").samefile(cluster)
    except OSError:
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
