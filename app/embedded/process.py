"""A server as a child process that cannot outlive this one."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from app.errors import EmbeddedServiceError

# The shell starts the server, names its pid on standard output and waits for it. Its standard input is a pipe
# whose other end only this process holds: however this process ends (SIGKILL included), the kernel closes the
# pipe, and the watcher ends the server. PR_SET_PDEATHSIG would not do: it fires when the *thread* that forked
# ends, and exists on Linux only. Once the shell has reaped the server it ends the watcher: no stranger
# that got the pid since is ever signalled.
_SUPERVISOR = """\
exec 3<&0
"$@" </dev/null >&2 3<&- &
server=$!
echo "$server"
exec >&-
{ read -r _ <&3; kill -CONT "$server"; kill -"$ENDING" "$server"; } 2>/dev/null &
watcher=$!
exec 3<&-
wait "$server"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"""


@dataclass(frozen=True)
class Account:
    """The user a server runs as, where it is not this process's own (only root can choose)."""

    uid: int
    gid: int


class SupervisedProcess:
    """A server that Ctrl-C does not reach, and that gets the signal `ending` when this process dies."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: int,
        ending: signal.Signals,
        environment: Mapping[str, str],
        account: Account | None = None,
    ) -> None:
        """Start `command`; both of its output streams go to the file descriptor `log`.

        Raises EmbeddedServiceError when this process may not start anything as `account`.
        """
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SUPERVISOR, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env={**environment, "ENDING": ending.name.removeprefix("SIG")},
                start_new_session=True,
                umask=0o077,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        except PermissionError as error:
            raise EmbeddedServiceError(
                "may not start a server as another user; run this as an ordinary user instead of root"
            ) from error
        line = self._shell.stdout.readline() if self._shell.stdout else b""
        if not line:
            self._release()
            raise EmbeddedServiceError(f"{Path(command[0]).name} could not be started (no process)")
        self.pid = int(line)

    @property
    def running(self) -> bool:
        """Whether the server's process is there (it may be frozen)."""
        return self._shell.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Signal the server; nothing happens when it has ended."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: timedelta) -> bool:
        """Wait for the server's end, at most `timeout`; whether it has ended."""
        try:
            self._shell.wait(timeout.total_seconds())
        except subprocess.TimeoutExpired:
            return False
        self._release()
        return True

    def _release(self) -> None:
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe is not None:
                pipe.close()
        self._shell.wait()


def run(
    command: Sequence[str], *, environment: Mapping[str, str], account: Account | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end and return what it printed. Raises OSError if it cannot be run."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        umask=0o077,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
