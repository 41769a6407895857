"""Pins every dependency, with hashes, in requirements*.txt.

    python scripts/lock.py             compile, versions that still fit stay; look for wheels
    python scripts/lock.py --upgrade   compile, take the newest versions that fit; look for wheels
    python scripts/lock.py --check     exit 1 if pyproject.toml asks for something else by now

The check needs no network: each file carries a digest of the tables it was compiled from.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

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


def read_pyproject() -> dict[str, Any]:
    """Give what pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def digest() -> str:
    """Give the digest of everything in pyproject.toml that decides what is locked."""
    pyproject = read_pyproject()
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


def run_uv(*arguments: str) -> None:
    """Run `uv pip`. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "uv", "pip", *arguments], cwd=ROOT, check=True)


def compile_locks(*, upgrade: bool) -> None:
    """Write all lock files. Needs the network."""
    earlier: list[str] = []
    for name, selection in LOCKS.items():
        print(f"compiling {name}", flush=True)
        run_uv(
            *("compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"),
            *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
            *(f"--output-file={name}", *selection, *earlier),
            *(["--upgrade"] if upgrade else []),
        )
        lock = ROOT / name
        pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        lock.write_text(header() + "\n".join(pins) + "\n", encoding="utf-8")
        earlier = [f"--constraints={name}"]


def pythons() -> list[str]:
    """Name the versions of Python that pyproject.toml says are supported."""
    last = [classifier.rpartition(" :: ")[2] for classifier in read_pyproject()["project"]["classifiers"]]
    return [name for name in last if re.fullmatch(r"3\.\d+", name)]


def check_wheels() -> None:
    """Raise CalledProcessError unless every version of Python finds a wheel of everything. Needs the network.

    Only wheels are installed, so what has none for a version would stop the set-up there.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        for name in LOCKS:
            for version in pythons():
                print(f"looking for the wheels of {name}, Python {version}", flush=True)
                run_uv(
                    *("install", "--quiet", "--dry-run", f"--target={nowhere}", f"--python-version={version}"),
                    *("--no-deps", "--require-hashes", "--only-binary=:all:", f"--requirements={name}"),
                )


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
        check_wheels()
        return 0
    if names := stale():
        print(f"pyproject.toml has changed since {', '.join(names)} was made: run `make lock`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
