"""Which services the tests run against, said at the start; what was skipped for it, said at the end."""

import gc
import tempfile
from collections.abc import Generator, Iterable, MutableMapping
from typing import Any, Protocol

import hypothesis
import pytest

from tests import collector
from tests.services.backend import DESCRIPTIONS, SKIPPED_FOR, Backend, choose_for_this_machine
from tests.services.clusters import SharedKafka
from tests.services.fixtures import (
    SERVICES,
    database_url,
    empty_database_url,
    kafka,
    mock_kafka,
    postgres,
    private_kafka,
    private_postgres,
    services,
    tcp_proxy,
    template_database,
)
from tests.services.in_memory import keep_temporary_files_in_memory
from tests.tracebacks import draw_plainly

__all__ = [
    "database_url",
    "empty_database_url",
    "kafka",
    "mock_kafka",
    "postgres",
    "private_kafka",
    "private_postgres",
    "services",
    "tcp_proxy",
    "template_database",
]

draw_plainly()

# For `--hypothesis-profile=long`: new histories each time, and many.
hypothesis.settings.register_profile(
    "long",
    max_examples=1000,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)

_IN_MEMORY = pytest.StashKey[bool]()
_SHARED_KAFKA = pytest.StashKey[SharedKafka]()


class _Node(Protocol):
    """A process with tests, as pytest-xdist sees it from the one that started it."""

    config: pytest.Config
    workerinput: MutableMapping[str, Any]


def pytest_configure(config: pytest.Config) -> None:
    services = choose_for_this_machine()
    known = getattr(config, "workerinput", {}).get("kafka")
    config.stash[SERVICES] = SharedKafka.use(services, known) if known else services
    config.stash[_IN_MEMORY] = keep_temporary_files_in_memory()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: _Node) -> None:
    """The processes side by side share one Kafka: each broker takes its share of the machine even when it rests."""
    stash = node.config.stash
    if stash[SERVICES].backend not in {Backend.NATIVE, Backend.DOCKER}:
        return
    if _SHARED_KAFKA not in stash:
        stash[_SHARED_KAFKA] = SharedKafka(stash[SERVICES])
    node.workerinput["kafka"] = stash[_SHARED_KAFKA].known


def pytest_unconfigure(config: pytest.Config) -> None:
    shared = config.stash.get(_SHARED_KAFKA, None)
    if shared is not None:
        shared.remove()


def pytest_report_header(config: pytest.Config) -> str:
    chosen = config.stash[SERVICES]
    place = "in memory" if config.stash[_IN_MEMORY] else f"in {tempfile.gettempdir()}"
    return f"services: {chosen.backend} = {DESCRIPTIONS[chosen.backend]} ({chosen.reason}); temporary files {place}"


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    if config.stash[SERVICES].backend is not Backend.EMBEDDED:
        return
    skip = pytest.mark.skip(reason=f"{SKIPPED_FOR}{Backend.EMBEDDED}: needs a real Kafka")
    for item in items:
        if item.get_closest_marker("real_kafka"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What it leaves stays: nobody looks for garbage in it, neither meanwhile nor in the tests, which do so often."""
    try:
        with collector.at_rest():
            return (yield)
    finally:
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = [
        report.nodeid
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and SKIPPED_FOR in report.longrepr[2]
    ]
    if skipped:
        backend = config.stash[SERVICES].backend
        terminalreporter.section(f"{len(skipped)} skipped for the backend {backend}")
        for name in skipped:
            terminalreporter.line(name)
