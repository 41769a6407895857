"""Makes `.venv` fit the locked dependencies, and does nothing when it already does.

    python scripts/install.py embedded    what the program and its embedded services need
    python scripts/install.py dev         that, and what tests and checks need

Runs on a bare Python, before anything is installed. Only wheels whose hashes are in the lock are taken,
so no foreign code runs at installation. The settings of pip (proxy, certificates, index, cache) hold.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / "installed.json"
LOG = VENV / "install.log"

# Only these packages, and only if nobody has changed them.
LOCKED = ("--require-hashes", "--only-binary=:all:", "--no-deps", "--no-compile")

# They would put the packages elsewhere, or ask for a hash of the project itself, which has none.
MISLEADING = ("DRY_RUN", "PREFIX", "PYTHON", "QUIET", "REQUIRE_HASHES", "ROOT", "TARGET", "USER")


def say(text: str, *, end: str = "\n") -> None:
    """Print a line of progress."""
    print(text, end=end, file=sys.stderr, flush=True)


def stop(text: str) -> NoReturn:
    """Print what is wrong and the way out, and exit with 1."""
    say(f"error: {text}")
    raise SystemExit(1)


def digest(content: bytes) -> str:
    """Give what tells one content from another."""
    return hashlib.sha256(content).hexdigest()


def lock_of(kind: str) -> Path:
    """Give the lock file of a kind of installation."""
    return ROOT / f"requirements-{kind}.txt"


def project_digest() -> str:
    """Give a digest of what installing the project itself depends on: name, version, commands."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    relevant = [tables["build-system"], tables["project"], tables["tool"]["hatch"]]
    return digest(json.dumps(relevant, sort_keys=True).encode())


def place() -> dict[str, str] | None:
    """Give where and on which Python `.venv` works, or None if it does not, or only where it once lay."""
    try:
        pip = (VENV / "bin" / "pip").read_text(encoding="utf-8", errors="replace")
        asked = [str(PYTHON), "-I", "-S", "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
        version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    # A moved environment names its old folder; one whose Python was upgraded beneath it has no packages.
    fits = str(VENV) in pip[:1000] and (VENV / "lib" / f"python{version}" / "site-packages" / "pip").is_dir()
    return {"place": str(VENV), "python": version} if fits else None


def recorded() -> dict[str, str]:
    """Give what the last run recorded, empty if there was none."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(STATE.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def create() -> dict[str, str]:
    """Make an empty `.venv` and give where it is."""
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian leaves it out
    except ImportError:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        stop(f"{sys.executable} cannot make virtual environments; on Debian and Ubuntu: apt install {package}")
    if VENV.is_symlink():  # to be emptied would be somebody else's
        stop(".venv is a link to another place: remove the link (rm .venv), and try again")
    say(f"Making .venv with Python {sys.version.split()[0]}")
    try:
        venv.create(VENV, with_pip=True, clear=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        stop(f"could not make {VENV}: {error}")
    made = place()
    if made is None:
        stop(f"{VENV} was made but does not work; try another Python: make PYTHON=/path/to/python3")
    return made


def environment() -> dict[str, str]:
    """Give the environment for pip: the caller's, less what would mislead it."""
    misleading = {f"PIP_{name}" for name in MISLEADING} | {"PYTHONHOME", "PYTHONPATH"}
    return {name: value for name, value in os.environ.items() if name not in misleading}


def pip(*arguments: str, pins: int = 0) -> None:
    """Run pip; what it says goes to the log. With `pins` a terminal shows how many packages are there."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines: list[str] = []
    shown = pins > 0 and sys.stderr.isatty()
    with LOG.open("a", encoding="utf-8") as log:
        for line in process.stdout or ():
            log.write(line)
            lines.append(line)
            if shown:
                show(lines, pins)
    if shown:
        say("\r\033[K", end="")
    if process.wait() != 0:
        say("".join(lines[-15:]).rstrip())
        stop(f"pip could not install (all it said: {LOG}); is there a network, and pip's proxy or index set?")


def compile_all() -> None:
    """Compile what was installed, on all cores; what cannot be compiled is not, or when it is imported."""
    command = [str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(VENV / "lib")]
    with LOG.open("a", encoding="utf-8") as log:
        subprocess.run(command, env=environment(), stdout=log, stderr=log, check=False)


def show(lines: Iterable[str], pins: int) -> None:
    """Redraw the line of progress."""
    *_, last = lines
    skipped = sum(line.startswith("Ignoring ") for line in lines)
    ready = sum(line.startswith(("Collecting ", "Requirement already")) for line in lines)
    if last.startswith("Collecting "):
        say(f"\r\033[K  [{ready}/{pins - skipped}] {last.split()[1]}", end="")
    elif last.startswith("Installing collected"):
        say(f"\r\033[K  [{ready}/{pins - skipped}] unpacking", end="")


def install(kind: str) -> None:
    """Bring `.venv` up to date for this kind of installation."""
    state, here = recorded(), place()
    lock, project = digest(lock_of(kind).read_bytes()), project_digest()
    if here is None or {key: state.get(key) for key in here} != here:
        state = {}
    # The dev lock holds all of the embedded one, in the same versions.
    complete = state.get("dev") == digest(lock_of("dev").read_bytes()) or state.get(kind) == lock
    if complete and state.get("project") == project:
        return
    started = time.monotonic()
    here = here or create()
    LOG.write_text("", encoding="utf-8")
    if not complete:
        pins = lock_of(kind).read_text(encoding="utf-8").count("==")
        say(f"Installing up to {pins} pinned, hash-checked packages (once; a minute or less on most networks)")
        pip(*LOCKED, f"--requirement={lock_of('installer')}")
        pip(*LOCKED, f"--requirement={lock_of(kind)}", pins=pins)
        compile_all()
    pip("--no-deps", "--no-build-isolation", "--editable", ".")
    state |= {kind: lock, "project": project} | here
    STATE.write_text(json.dumps(state), encoding="utf-8")
    say(f"Installed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        install(sys.argv[1])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
