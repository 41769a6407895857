"""Where throw-away data lies: in memory, on a machine that has enough of it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

_MEMORY = Path("/dev/shm")  # noqa: S108 what is made there has a name that nobody can guess
_PLENTY = 8 << 30  # bytes; the servers of all the processes side by side have used less than 3 GB


@contextmanager
def temporary_files_in_memory() -> Iterator[bool]:
    """Inside, temporary files of this process and of those that it starts are in memory, if there is plenty of it.

    Small files are made there for a tenth of the work that a disk's file system takes, and a server of PostgreSQL is
    a thousand of them. They are gone afterwards. Says whether it is so.
    """
    if not _is_roomy():
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="outbox-tests-", dir=_MEMORY, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # started by root, servers are another user's
        with mock.patch.dict(os.environ, TMPDIR=folder), mock.patch.object(tempfile, "tempdir", None):
            yield True


def _is_roomy() -> bool:
    """Room in the file system, which is a limit only, and memory that nobody uses."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
        return min(available, shutil.disk_usage(_MEMORY).free) >= _PLENTY
    except (OSError, StopIteration):
        return False
