from pathlib import Path

import pytest

from tests.services.backend import Backend, choose


def _home(tmp_path: Path) -> str:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kafka-server-start.sh").touch()
    return str(tmp_path)


def test_auto_takes_the_best_backend_there_is(tmp_path: Path) -> None:
    home = _home(tmp_path)
    external = {"TEST_DATABASE_URL": "postgresql://", "TEST_KAFKA_BOOTSTRAP_SERVERS": "localhost:9092"}
    everything = {**external, "KAFKA_HOME": home, "TEST_BACKEND": "auto"}
    assert choose(everything, lambda: True, "java").backend is Backend.EXTERNAL
    assert choose({"KAFKA_HOME": home}, lambda: True, "java").backend is Backend.DOCKER
    assert choose({"KAFKA_HOME": home}, lambda: False, "java").backend is Backend.NATIVE
    assert choose({}, lambda: False, None).backend is Backend.EMBEDDED
    assert choose({**everything, "TEST_BACKEND": "embedded"}, lambda: True, "java").backend is Backend.EMBEDDED


def test_a_backend_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match="use auto, embedded, native, docker, external"):
        choose({"TEST_BACKEND": "podman"}, lambda: True, None)
    with pytest.raises(pytest.UsageError, match="needs both"):
        choose({"TEST_DATABASE_URL": "postgresql://"}, lambda: True, None)
    with pytest.raises(pytest.UsageError, match="needs KAFKA_HOME"):
        choose({"TEST_BACKEND": "native"}, lambda: True, "java")
    with pytest.raises(pytest.UsageError, match=r"no bin/kafka-server-start\.sh"):
        choose({"TEST_BACKEND": "native", "KAFKA_HOME": str(tmp_path)}, lambda: True, "java")
    with pytest.raises(pytest.UsageError, match="needs java"):
        choose({"TEST_BACKEND": "native", "KAFKA_HOME": _home(tmp_path)}, lambda: True, None)
