"""PostgreSQL out of a Python package: it starts where it can, and says what to do where it cannot."""

import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.embedded import EmbeddedPostgres
from app.errors import EmbeddedServiceError
from tests.services.postgres_server import libpq_environment


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not `tmp_path`, which the user that root's server runs as could not enter."""
    with tempfile.TemporaryDirectory(prefix="outbox-test-") as name:
        yield Path(name)


def query(server: EmbeddedPostgres, sql: str, **libpq: str) -> str:
    """What psql prints, and why it failed if it did."""
    environment = {**libpq_environment(server.url()), **libpq}
    answer = subprocess.run(
        [str(server.binary("psql")), "-XqAtc", sql],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


def test_data_survive_a_restart_and_fresh_deletes_them(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        query(server, "CREATE TABLE kept ()")
    server.stop()
    with EmbeddedPostgres(data_dir) as server:
        assert query(server, "SELECT to_regclass('kept')") == "kept"
        server.stop()
        server.start(fresh=True)
        assert query(server, "SELECT to_regclass('kept')") == ""


def test_the_server_is_set_up_as_promised(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False, settings={"work_mem": "5MB"}) as server:
        settings = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN "
        names = "('TimeZone', 'data_checksums', 'fsync', 'listen_addresses', 'server_encoding', 'work_mem')"
        assert query(server, settings + names) == "UTC on off 127.0.0.1 UTF8 5120"
        assert "password authentication failed" in query(server, "SELECT 1", PGPASSWORD="wrong")
        server.stop()
    with EmbeddedPostgres(data_dir) as server:
        assert query(server, "SHOW fsync") == "on"


def test_a_second_server_on_the_same_data_is_refused(data_dir: Path) -> None:
    with (
        EmbeddedPostgres(data_dir),
        pytest.raises(EmbeddedServiceError, match=rf"already running \(pid {os.getpid()}\)"),
    ):
        EmbeddedPostgres(data_dir).start()
    with EmbeddedPostgres(data_dir) as server:  # the refusal left no lock behind
        assert server.running


def test_a_taken_port_is_named(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        other = tempfile.TemporaryDirectory(prefix="outbox-test-")
        with other as name, pytest.raises(EmbeddedServiceError, match=f"port {server.port} is taken"):
            EmbeddedPostgres(Path(name), port=server.port).start()


def test_data_of_another_version_are_refused(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False)
    server.start()
    server.stop()
    (data_dir / "cluster" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedServiceError, match=r"of PostgreSQL 17, .*start with --fresh"):
        server.start()


def test_a_setting_that_postgres_refuses_is_reported(data_dir: Path) -> None:
    with pytest.raises(EmbeddedServiceError, match='invalid value for parameter "max_connections"'):
        EmbeddedPostgres(data_dir, durable=False, settings={"max_connections": "many"}).start()


def test_a_path_too_long_for_a_socket_does_without(data_dir: Path) -> None:
    long = data_dir / ("x" * 120)
    data_dir.chmod(0o755)
    with EmbeddedPostgres(long, durable=False) as server:
        assert server.socket_dir is None
        assert query(server, "SELECT 1") == "1"


def test_a_short_path_has_a_socket(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert server.socket_dir is not None
        assert query(server, "SELECT inet_client_addr() IS NULL", PGHOST=str(server.socket_dir)) == "t"
        assert "password authentication failed" in query(
            server, "SELECT 1", PGHOST=str(server.socket_dir), PGPASSWORD="wrong"
        )


def test_a_killed_server_starts_again(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        query(server, "CREATE TABLE kept ()")
        os.kill(server.pid, signal.SIGKILL)
        _wait_until(lambda: not server.running)
        server.start()
        assert query(server, "SELECT to_regclass('kept')") == "kept"


def test_a_pid_file_that_names_a_stranger_is_no_obstacle(data_dir: Path) -> None:
    # As after a reboot: the pid of the old server now belongs to somebody else, who must not be harmed.
    server = EmbeddedPostgres(data_dir)
    server.start()
    pid_file = data_dir / "cluster" / "postmaster.pid"
    text = pid_file.read_text()
    server.stop()
    # Of the server's own user: PostgreSQL itself sees that another user's process cannot be its predecessor.
    owner = pid_file.parent.stat().st_uid
    stranger = subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd="/", user=None if owner == os.geteuid() else owner)
    try:
        pid_file.write_text(text.replace(text.split("\n", 1)[0], str(stranger.pid), 1))
        server.start()
        assert query(server, "SELECT 1") == "1"
        assert stranger.poll() is None
    finally:
        server.stop()
        stranger.communicate()


STARTER = """\
import sys
from pathlib import Path
from app.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_the_server_ends_with_the_process_that_started_it(data_dir: Path, frozen: bool) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert starter.stdout is not None
    with starter:
        pid = starter.stdout.readline().strip()
        if frozen:
            os.kill(int(pid), signal.SIGSTOP)
        starter.kill()
    _wait_until(lambda: not Path("/proc", pid, "cwd").exists())


def test_a_server_that_outlived_its_starter_is_ended(data_dir: Path) -> None:
    orphan = EmbeddedPostgres(data_dir)
    orphan.start()
    assert orphan._directory is not None
    orphan._directory.release()  # as when nobody is left to hold the lock
    orphan._directory = None
    with EmbeddedPostgres(data_dir) as server:
        assert not orphan.running
        assert query(server, "SELECT 1") == "1"
    orphan.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
def test_root_changes_nothing_outside_and_gives_away_only_the_cluster(data_dir: Path) -> None:
    above = stat.S_IMODE(data_dir.parent.stat().st_mode)
    with EmbeddedPostgres(data_dir, durable=False) as server:
        nobody = pwd.getpwnam("nobody").pw_uid
        assert Path("/proc", str(server.pid)).stat().st_uid == nobody
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o711
        owners = {path.name: path.stat().st_uid for path in data_dir.iterdir()}
        assert owners == {"cluster": nobody, "password": nobody, "lock": 0, "server.log": 0}
        assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
        assert stat.S_IMODE((data_dir / "cluster").stat().st_mode) == 0o700
    assert stat.S_IMODE(data_dir.parent.stat().st_mode) == above


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
def test_root_out_of_reach_of_the_server_is_told_where_to_go(data_dir: Path) -> None:
    data_dir.chmod(0o700)
    with pytest.raises(EmbeddedServiceError, match=r"cannot enter .*choose a data directory such as /var"):
        EmbeddedPostgres(data_dir / "inside").start()
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
def test_programs_that_the_server_cannot_reach_are_copied(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.embedded.binaries.Installation.runs_as", _only_copies_run)
    with EmbeddedPostgres(data_dir, durable=False) as server:
        program = Path("/proc", str(server.pid), "exe").readlink()
        assert program.is_relative_to(data_dir / "binaries")
        assert program.stat().st_uid == 0
        assert query(server, "SELECT 1") == "1"
        copied = program.stat().st_mtime_ns
        server.stop()
        server.start()
        assert Path("/proc", str(server.pid), "exe").readlink().stat().st_mtime_ns == copied


def _only_copies_run(installation: object, account: object) -> bool:
    return "binaries" in str(installation)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
