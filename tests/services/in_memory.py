"""Where throw-away data lies: in memory, on a machine that has enough of it."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 what is made there has a name that nobody can guess
_PLENTY = 8 << 30  # bytes, several times what the servers of all processes side by side take


def keep_temporary_files_in_memory() -> bool:
    """From here on temporary files of this process, and of those that it starts, are in memory, if there is plenty.

    Small files are made there for a fraction of the work that a disk's file system takes, and a server of PostgreSQL
    is a thousand of them. They are gone when this process ends. Who set TMPDIR wants them elsewhere, as the processes
    side by side do, which have it from the one that started them. Says whether it is so.
    """
    if "TMPDIR" in os.environ or not _is_roomy():
        return False
    folder = Path(tempfile.mkdtemp(prefix="outbox-tests-", dir=_MEMORY))
    # What is asked for first is done last: whoever else cleans up at the end finds it there.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o711)  # started by root, servers are another user's
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    return True


def _is_roomy() -> bool:
    """Room in the file system, which is a limit only, and memory that nobody uses."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
        return min(available, shutil.disk_usage(_MEMORY).free) >= _PLENTY
    except (OSError, StopIteration):
        return False
