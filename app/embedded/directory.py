"""Where embedded data lies, who owns it and who is using it."""

import fcntl
import os
import pwd
import secrets
import shutil
from pathlib import Path
from typing import Self

from app.embedded.process import Account, run
from app.errors import EmbeddedServiceError

APPLICATION = "outbox-service"

_PRIVATE = 0o700
_ENTERABLE = 0o711
_NO_LINKS = os.O_CLOEXEC | os.O_NOFOLLOW


def default_data_dir(override: Path | None = None) -> Path:
    """Where embedded data is kept: `override`, else the XDG base directory for data, for root `/var/lib`.

    Root's server runs as another user, who could not enter a directory below root's home.
    """
    if override is not None:
        return override
    if os.geteuid() == 0:
        return Path("/var/lib") / APPLICATION
    chosen = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".local" / "share") / APPLICATION


class DataDirectory:
    """A directory of this process's user, held by one process at a time. Nothing above it is changed.

    As root the server runs as `account` (the user `nobody`) and owns only `cluster`. The rest stays root's,
    so that whoever else runs as `nobody` cannot make root follow a planted link.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.cluster = path / "cluster"
        self.password_file = path / "password"
        self.binaries = path / "binaries"
        self.log_file = path / "server.log"
        self._lock = lock
        self.account = _service_account(self.cluster) if os.geteuid() == 0 else None

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Create the directory if it is missing and lock it.

        Raises EmbeddedServiceError when it is another user's, another program's, in use, or out of the
        server's reach.
        """
        path = path.absolute()
        try:
            _create(path)
            _check_ours(path)
            lock = _lock(path)
        except OSError as error:
            raise EmbeddedServiceError(f"cannot use data directory {path}: {error.strerror}") from error
        try:
            directory = cls(path, lock)
            directory._let_server_in()
        except BaseException:
            os.close(lock)
            raise
        return directory

    def release(self) -> None:
        """Let another process have the directory."""
        os.close(self._lock)

    def erase(self) -> None:
        """Delete all data. The caller has made sure that no server runs on it."""
        self.password_file.unlink(missing_ok=True)
        if self.cluster.exists():
            shutil.rmtree(self.cluster)

    def empty_folder(self, name: str) -> Path:
        """A new, empty folder that only the server can enter; an earlier one of that name is deleted."""
        folder = self.path / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=_PRIVATE)
        if self.account is not None:
            os.chown(folder, self.account.uid, self.account.gid)
        return folder

    def create_password(self) -> None:
        """Write a new random password where only the server, and root, can read it."""
        self.password_file.unlink(missing_ok=True)
        descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24))
        if self.account is not None:
            os.chown(self.password_file, self.account.uid, self.account.gid)

    def open_log(self) -> int:
        """A descriptor of the server's log, emptied: it is for finding out why *this* start failed."""
        return os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _NO_LINKS, 0o600)

    def read_log(self) -> str:
        """What the server has logged since its start."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _let_server_in(self) -> None:
        if self.account is None:
            self.path.chmod(_PRIVATE)
            return
        self.path.chmod(_ENTERABLE)
        if run(["/bin/sh", "-c", 'cd "$1"', "sh", str(self.path)], environment={}, account=self.account).returncode:
            raise EmbeddedServiceError(
                f"PostgreSQL does not run as root, and user {self.account.uid} cannot enter {self.path}: "
                f"choose a data directory such as /var/lib/{APPLICATION}, or run this as an ordinary user"
            )


def _create(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)  # two processes may start at once
        if os.geteuid() == 0:
            folder.chmod(0o755)  # whatever the umask: the server's user must get through


def _check_ours(path: Path) -> None:
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedServiceError(
            f"data directory {path} belongs to user {owner}, this runs as user {os.geteuid()}: "
            "run it as that user, or choose another data directory"
        )
    names = {entry.name for entry in path.iterdir()}
    if names and "lock" not in names:
        raise EmbeddedServiceError(f"{path} holds other files: choose an empty or a new data directory")


def _lock(path: Path) -> int:
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise EmbeddedServiceError(
            f"already running (pid {holder}) on {path}: stop that process, or choose another data directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def _service_account(cluster: Path) -> Account:
    if cluster.exists():
        status = cluster.stat()
        return Account(status.st_uid, status.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServiceError(
            "PostgreSQL does not run as root, and there is no user 'nobody' to run it as: run this as an ordinary user"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)
