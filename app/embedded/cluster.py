"""The files of a PostgreSQL cluster: made once, checked at every start."""

from app.embedded.binaries import ENVIRONMENT, MAJOR_VERSION, Installation
from app.embedded.directory import DataDirectory
from app.embedded.process import run
from app.errors import EmbeddedServiceError


def create_cluster(directory: DataDirectory, installation: Installation, *, durable: bool) -> None:
    """Make an empty cluster whose superuser `postgres` has the directory's new password.

    Raises EmbeddedServiceError when `initdb` cannot.
    """
    directory.create_password()
    # Renamed when complete, so that a start that was killed here leaves nothing that looks like a cluster.
    unfinished = directory.empty_folder("cluster.unfinished")
    finished = run(
        [
            str(installation.program("initdb")),
            f"--pgdata={unfinished}",
            "--username=postgres",
            f"--pwfile={directory.password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Sorting and case the same on every machine, whatever locales it has.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            # Iterations protect weak passwords; this one is random, and each connection pays for them.
            "--set=scram_iterations=1",
            "--no-instructions",
            *([] if durable else ["--no-sync"]),
        ],
        environment=ENVIRONMENT,
        account=directory.account,
    )
    if finished.returncode:
        raise EmbeddedServiceError(f"the embedded PostgreSQL could not be set up: {last_line(finished.stderr)}")
    unfinished.rename(directory.cluster)


def check_cluster(directory: DataDirectory) -> None:
    """Raise EmbeddedServiceError when this PostgreSQL cannot serve the cluster, or nobody could log in."""
    version_file = directory.cluster / "PG_VERSION"
    version = version_file.read_text(encoding="ascii").strip() if version_file.exists() else "unknown"
    if version != MAJOR_VERSION:
        raise EmbeddedServiceError(
            f"the data in {directory.path} is of PostgreSQL {version}, this is PostgreSQL {MAJOR_VERSION}: "
            "start with --fresh to delete it, or choose another data directory"
        )
    if not directory.password_file.exists():
        raise EmbeddedServiceError(
            f"the password of the data in {directory.path} is gone: start with --fresh to delete it, "
            "or choose another data directory"
        )


def last_line(text: str) -> str:
    """What a program said last: with PostgreSQL's, the reason why it gave up."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
