"""PostgreSQL as a child process, for machines where nothing is installed."""

import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

from app.embedded.binaries import ENVIRONMENT, Installation, bundled, readable_copy
from app.embedded.cluster import check_cluster, create_cluster, last_line
from app.embedded.directory import DataDirectory
from app.embedded.orphan import end_orphan
from app.embedded.process import SupervisedProcess
from app.errors import EmbeddedServiceError

_HOST = "127.0.0.1"
_START_TIMEOUT = timedelta(seconds=60)  # recovery after a crash replays what was not yet written
_POLL_INTERVAL = timedelta(milliseconds=5)
# Fast shutdown, then immediate, then none at all.
_STOP_STEPS = ((signal.SIGINT, timedelta(seconds=20)), (signal.SIGQUIT, timedelta(seconds=10)))
_SOCKET_PATH_LIMIT = 103  # bytes, the shortest of all systems (Linux has 107)
# The backends of a killed server take a moment to see that it is gone, and use its shared memory until then.
_LEFT_OVER_MEMORY = "shared memory block"
_PORT_TAKEN = "could not create any TCP/IP sockets"

_SETTINGS = {
    "listen_addresses": _HOST,
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The log must not show what is stored: no statements, no key values from DETAIL lines.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_THROW_AWAY = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One PostgreSQL server on `data_dir`, reached at 127.0.0.1 and, if the path is short, at a Unix socket.

    Its superuser `postgres` has a random password, kept in the data directory. The server ends with this
    process, however that ends. With `durable` off, data is not safe from a crash of the machine: for
    throw-away servers. All methods block, for less than a second as a rule. Needs a POSIX system.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started yet. Without `port` a free one is taken, and kept for later starts."""
        self.data_dir = data_dir.absolute()
        self._durable = durable
        self._settings = {**_SETTINGS, **({} if durable else _THROW_AWAY), **(settings or {})}
        self._port_chosen = port is not None
        self._port = port
        self._password = ""
        self._directory: DataDirectory | None = None
        self._server: SupervisedProcess | None = None

    def start(self, *, fresh: bool = False) -> None:
        """Start the server and wait until it accepts connections; with `fresh`, delete all its data first.

        Raises EmbeddedServiceError with the way out when that is not possible.
        """
        if self.running:
            return
        self.stop()  # what a killed server left open
        self._directory = DataDirectory.acquire(self.data_dir)
        try:
            self._start(self._directory, fresh=fresh)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, at most 30 s; nothing happens when none runs."""
        if self._server is not None:
            self._server.signal(signal.SIGCONT)
            for step, patience in _STOP_STEPS:
                self._server.signal(step)
                if self._server.wait(patience):
                    break
            else:
                self._server.signal(signal.SIGKILL)
                self._server.wait(timedelta(seconds=10))
            self._server = None
        if self._directory is not None:
            self._directory.release()
            self._directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server's process is there (it may be frozen)."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """The server's process id. Raises EmbeddedServiceError when it was not started."""
        if self._server is None:
            raise EmbeddedServiceError("the embedded PostgreSQL is not running")
        return self._server.pid

    @property
    def port(self) -> int:
        """Raises EmbeddedServiceError when the server was never started."""
        if self._port is None:
            raise EmbeddedServiceError("the embedded PostgreSQL was not started")
        return self._port

    @property
    def socket_dir(self) -> Path | None:
        """Directory of the Unix socket; None when its path would be too long for the system."""
        folder = self.data_dir / "cluster"
        return folder if len(os.fsencode(folder / f".s.PGSQL.{self.port}")) <= _SOCKET_PATH_LIMIT else None

    def url(self, database: str = "postgres") -> str:
        """Address for SQLAlchemy with asyncpg, the password included."""
        return f"postgresql+asyncpg://postgres:{self._password}@{_HOST}:{self.port}/{database}"

    def binary(self, name: str) -> Path:
        """Path of a client program such as `psql`. Raises EmbeddedServiceError when it is not there."""
        return bundled().program(name)

    def _start(self, directory: DataDirectory, *, fresh: bool) -> None:
        installation = bundled()
        if directory.account is not None:
            installation = readable_copy(installation, directory.binaries, directory.account)
        end_orphan(directory.cluster)
        if fresh:
            directory.erase()
        if directory.cluster.exists():
            check_cluster(directory)
        else:
            create_cluster(directory, installation, durable=self._durable)
        self._password = directory.password_file.read_text(encoding="ascii")
        deadline = time.monotonic() + _START_TIMEOUT.total_seconds()
        while not self._launch(directory, installation, deadline):
            time.sleep(_POLL_INTERVAL.total_seconds())

    def _launch(self, directory: DataDirectory, installation: Installation, deadline: float) -> bool:
        """Start the server once and wait until it is ready. False: it ended for a reason that passes."""
        port = self._pick_port()
        sockets = self.socket_dir
        settings = {
            **self._settings,
            "port": str(port),
            "unix_socket_directories": "" if sockets is None else f'"{sockets}"',
        }
        log = directory.open_log()
        try:
            self._server = SupervisedProcess(
                [
                    str(installation.program("postgres")),
                    f"-D{directory.cluster}",
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                log=log,
                ending=signal.SIGINT,
                environment=ENVIRONMENT,
                account=directory.account,
            )
        finally:
            os.close(log)
        while time.monotonic() < deadline:
            if not self._server.running:
                self._server.wait(timedelta(0))
                if self._ended_for_a_passing_reason(directory.read_log()):
                    return False
                reason = _fatal(directory.read_log())
                raise EmbeddedServiceError(
                    f"the embedded PostgreSQL did not start: {reason} (log: {directory.log_file})"
                )
            if _is_ready(directory.cluster / "postmaster.pid", self._server.pid):
                return True
            time.sleep(_POLL_INTERVAL.total_seconds())
        raise EmbeddedServiceError(
            f"the embedded PostgreSQL was not ready after {_START_TIMEOUT.seconds} s (log: {directory.log_file})"
        )

    def _pick_port(self) -> int:
        if self._port is None:
            with socket.socket() as probe:
                probe.bind((_HOST, 0))
                self._port = int(probe.getsockname()[1])
        elif self._port_chosen and _is_listening(self._port):
            raise EmbeddedServiceError(f"port {self._port} is taken: stop what uses it, or choose another port")
        return self._port

    def _ended_for_a_passing_reason(self, log: str) -> bool:
        if _PORT_TAKEN in log and not self._port_chosen:
            self._port = None  # somebody took it between our look and the server's bind
            return True
        return _LEFT_OVER_MEMORY in log


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((_HOST, port)) == 0


def _is_ready(pid_file: Path, pid: int) -> bool:
    # postmaster.pid as pg_ctl reads it: the first line is the pid, the last, once it is there, the state.
    with suppress(FileNotFoundError):
        lines = pid_file.read_text(encoding="utf-8").splitlines()
        return lines[:1] == [str(pid)] and lines[-1].strip() == "ready"
    return False


def _fatal(log: str) -> str:
    found = re.findall(r"(?:FATAL|PANIC): +(.*)", log)
    return found[-1] if found else last_line(log)
