"""What the compose file says is what the documentation says and the program needs. That it starts, Docker shows."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load
from tests.services import container_kafka, container_postgres

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "outbox-service")
ONCE = {"migrate", "topics"}


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


def test_all_parts_are_there() -> None:
    assert set(SERVICES) == {"db", "kafka", "fakes", "api", "relay", "worker"} | ONCE
    assert set(OURS) == set(SERVICES) - {"db", "kafka"}


def test_the_images_are_those_of_the_tests_and_of_the_documentation() -> None:
    assert SERVICES["db"]["image"] == container_postgres.IMAGE
    assert SERVICES["kafka"]["image"] == container_kafka.IMAGE
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    versions = re.search(r"PostgreSQL (\S+), Apache Kafka (\d+\.\d+)", readme)
    assert versions is not None
    assert SERVICES["db"]["image"].partition(":")[2] == versions[1]
    assert SERVICES["kafka"]["image"].partition(":")[2].startswith(versions[2] + ".")


def test_the_image_has_a_python_that_the_project_knows() -> None:
    bases = re.findall(r"^FROM python:(\S+)-slim", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(set(bases)) == 1
    assert f"Programming Language :: Python :: {bases[0]}" in project["classifiers"]


def test_it_is_built_once() -> None:
    """A build for each would leave an image for each; the last gets the name, so all were made anew at each start."""
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]


@pytest.mark.parametrize("name", OURS)
def test_ours_can_do_little(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert ("healthcheck" in service) == (name not in ONCE)
    assert "USER 10001:10001\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_nobody_is_killed_while_it_still_tidies_up() -> None:
    settings = load(_env_file=None, database_url="postgresql://localhost/none")
    deadlines = {
        "api": settings.api_stop_deadline,
        "relay": settings.publish_deadline,
        "worker": max(settings.consumer_drain_deadline, settings.task_stop_deadline),
    }
    for name, deadline in deadlines.items():
        assert _seconds(SERVICES[name]["stop_grace_period"]) > deadline.total_seconds()


def test_ports_are_published_to_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_kafka_tells_containers_and_this_machine_different_names() -> None:
    environment = SERVICES["kafka"]["environment"]
    advertised = dict(each.split("://") for each in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["INTERNAL"] == SERVICES["relay"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert advertised["EXTERNAL"].startswith("localhost:")
    (port,) = SERVICES["kafka"]["ports"]
    assert f"EXTERNAL://:{port.rpartition(':')[2]}," in environment["KAFKA_LISTENERS"]
