"""Which services the tests run against, and why."""

import gc
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

import pytest


class Backend(StrEnum):
    EMBEDDED = "embedded"
    NATIVE = "native"
    DOCKER = "docker"
    EXTERNAL = "external"


DESCRIPTIONS = {
    Backend.EMBEDDED: "PostgreSQL and the mock Kafka out of Python packages",
    Backend.NATIVE: "PostgreSQL out of a Python package, Apache Kafka from KAFKA_HOME",
    Backend.DOCKER: "PostgreSQL and Apache Kafka from images",
    Backend.EXTERNAL: "TEST_DATABASE_URL and TEST_KAFKA_BOOTSTRAP_SERVERS",
}
# Every reason to skip that comes from the backend begins so: the summary of a run finds them by it.
SKIPPED_FOR = "not on the backend "


@dataclass(frozen=True)
class Services:
    """The backend of this run with what it needs to know.

    `bootstrap_servers`: of a Kafka that is there already; `kafka_prepared`: see `NativeKafka`.
    """

    backend: Backend
    reason: str
    database_url: str = ""
    bootstrap_servers: str = ""
    kafka_home: Path | None = None
    kafka_prepared: Path | None = None

    def skip(self, what: str) -> NoReturn:
        """Skip the running test, in a way that the summary counts."""
        pytest.skip(f"{SKIPPED_FOR}{self.backend}: {what}")


def choose(environment: Mapping[str, str], engine_answers: Callable[[], bool], java: str | None) -> Services:
    """The services that `environment` asks for, or the best that there are.

    Raises pytest.UsageError when what is asked for is not there.
    """
    asked = environment.get("TEST_BACKEND") or "auto"
    if asked != "auto" and asked not in set(Backend):
        raise pytest.UsageError(f"TEST_BACKEND={asked}: use auto, {', '.join(Backend)}")
    database_url = environment.get("TEST_DATABASE_URL", "")
    bootstrap_servers = environment.get("TEST_KAFKA_BOOTSTRAP_SERVERS", "")
    home = Path(environment["KAFKA_HOME"]) if environment.get("KAFKA_HOME") else None
    found = asked if asked != "auto" else None
    reason = f"TEST_BACKEND={asked}"
    if found is None:
        found, reason = _best(bool(database_url or bootstrap_servers), engine_answers, home)
    backend = Backend(found)
    if backend is Backend.EXTERNAL and not (database_url and bootstrap_servers):
        raise pytest.UsageError("the external backend needs both TEST_DATABASE_URL and TEST_KAFKA_BOOTSTRAP_SERVERS")
    if backend is Backend.NATIVE:
        _check_native(home, java)
    return Services(backend, reason, database_url, bootstrap_servers, home)


def choose_for_this_machine() -> Services:
    return choose(os.environ, _engine_answers, shutil.which("java"))


def _best(external: bool, engine_answers: Callable[[], bool], home: Path | None) -> tuple[Backend, str]:
    if external:
        return Backend.EXTERNAL, "its addresses are given"
    if engine_answers():
        return Backend.DOCKER, "an engine answers"
    if home is not None:
        return Backend.NATIVE, "KAFKA_HOME is set, no Docker engine answers"
    return Backend.EMBEDDED, "no Docker engine answers, KAFKA_HOME is not set"


def _check_native(home: Path | None, java: str | None) -> None:
    if home is None:
        raise pytest.UsageError("the native backend needs KAFKA_HOME, the directory of Apache Kafka")
    if not (home / "bin" / "kafka-server-start.sh").is_file():
        raise pytest.UsageError(f"KAFKA_HOME={home} has no bin/kafka-server-start.sh")
    if java is None:
        raise pytest.UsageError("the native backend needs java on the PATH")


def _engine_answers() -> bool:
    # Docker's client leaves its sockets open when nobody answers: they are collected here, where that is no
    # warning, instead of in whatever test runs when the garbage collector does.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        answered = _ping()
        gc.collect()
    return answered


def _ping() -> bool:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()
