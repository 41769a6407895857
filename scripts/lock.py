"""Pins every dependency, with hashes, in requirements*.txt.

    python scripts/lock.py             compile; versions that still fit stay
    python scripts/lock.py --upgrade   compile; take the newest versions that fit
    python scripts/lock.py --check     exit 1 if pyproject.toml asks for something else by now

The check needs no network: each file carries a digest of the tables it was compiled from.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Each file takes its versions from the one before, so that they all agree. The last two are what makes the
# package itself, for the build stage of the image, and what installs the others.
LOCKS = {
    "requirements.txt": ["pyproject.toml"],
    "requirements-embedded.txt": ["pyproject.toml", "--extra=embedded", "--group=build"],
    "requirements-dev.txt": ["pyproject.toml", "--extra=embedded", "--group=dev"],
    "requirements-build.txt": ["--group=build"],
    "requirements-installer.txt": ["--group=installer"],
}


def digest() -> str:
    """Give the digest of everything in pyproject.toml that decides what is locked."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    asked = [
        project["requires-python"],
        project["dependencies"],
        project["optional-dependencies"],
        pyproject["dependency-groups"],
        list(LOCKS.items()),
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def header() -> str:
    """Give the line that every lock file starts with."""
    return f"# Made by `make lock` from pyproject.toml, dependencies {digest()}. Do not edit.\n"


def compile_locks(*, upgrade: bool) -> None:
    """Write all lock files. Needs the network."""
    earlier: list[str] = []
    for name, selection in LOCKS.items():
        print(f"compiling {name}", flush=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet"),
                *("--universal", "--python-version=3.11", "--generate-hashes"),
                *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
                *(f"--output-file={name}", *selection, *earlier),
                *(["--upgrade"] if upgrade else []),
            ],
            cwd=ROOT,
            check=True,
        )
        lock = ROOT / name
        pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        lock.write_text(header() + "\n".join(pins) + "\n", encoding="utf-8")
        earlier = [f"--constraints={name}"]


def stale() -> list[str]:
    """Name the lock files that were compiled from other tables, or are not there."""
    return [
        name
        for name in LOCKS
        if not (lock := ROOT / name).exists() or not lock.read_text(encoding="utf-8").startswith(header())
    ]


def main() -> int:
    """Compile, or check. Gives the exit status."""
    if "--check" not in sys.argv:
        compile_locks(upgrade="--upgrade" in sys.argv)
        return 0
    if names := stale():
        print(f"pyproject.toml has changed since {', '.join(names)} was made: run `make lock`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
