"""Stop and continue a process together with all that it started."""

import os
import signal
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")


def freeze(pid: int) -> None:
    """SIGSTOP, parents first, so that no new child escapes."""
    _signal(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    for child in _children(pid):
        _signal(child, number)


def _children(parent: int) -> list[int]:
    # The fields after the name, which is in parentheses and may hold anything: state, parent, …
    found = []
    for status in _PROCESSES.glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found
