import importlib.util
import os
from datetime import timedelta
from pathlib import Path

import pytest

from app.embedded import EmbeddedKafka, EmbeddedPostgres, default_data_dir
from app.embedded.binaries import bundled
from app.embedded.directory import DataDirectory
from app.errors import EmbeddedServiceError


def test_data_of_an_ordinary_user_goes_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir() == Path("/home/someone/.local/share/outbox-service")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/outbox-service")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_data_dir() == Path("/home/someone/.local/share/outbox-service")


def test_data_of_root_goes_where_another_user_can_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert default_data_dir() == Path("/var/lib/outbox-service")
    assert default_data_dir(Path("/chosen")) == Path("/chosen")


def test_a_directory_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    before = tmp_path.stat().st_mode
    with pytest.raises(EmbeddedServiceError, match="holds other files"):
        DataDirectory.acquire(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert tmp_path.stat().st_mode == before


def test_a_directory_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(EmbeddedServiceError, match="belongs to user"):
        DataDirectory.acquire(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "lock").symlink_to(victim)
    with pytest.raises(EmbeddedServiceError, match="cannot use data directory"):
        DataDirectory.acquire(directory)
    assert victim.read_text() == "precious"


def test_a_missing_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedServiceError, match=r"pip install -r requirements-embedded\.txt"):
        bundled()
    with pytest.raises(EmbeddedServiceError, match=r"pip install -r requirements-embedded\.txt"):
        EmbeddedKafka()


def test_a_server_that_was_never_started_has_no_address(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data")
    server.stop()
    with pytest.raises(EmbeddedServiceError, match="not started"):
        server.url()
    with pytest.raises(EmbeddedServiceError, match="not running"):
        _ = server.pid


def test_the_mock_cluster_tells_why_it_refuses() -> None:
    pytest.importorskip("confluent_kafka")
    with EmbeddedKafka(brokers=2) as kafka:
        assert len(kafka.bootstrap_servers.split(",")) == 2
        kafka.create_topic("a", partitions=3)
        with pytest.raises(EmbeddedServiceError, match="error 36"):  # TOPIC_ALREADY_EXISTS
            kafka.create_topic("a")
        kafka.set_leader("a", 2, None)
        kafka.set_leader("a", 2, 2)
        kafka.set_round_trip_time(1, timedelta(milliseconds=1))
        with pytest.raises(EmbeddedServiceError, match="refused"):
            kafka.set_down(3)
    kafka.close()
    with pytest.raises(EmbeddedServiceError, match="closed"):
        kafka.create_topic("b")


def test_without_its_own_functions_the_mock_cluster_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("confluent_kafka")
    monkeypatch.setattr("app.embedded.kafka._load_library", lambda: None)
    with EmbeddedKafka(brokers=2) as kafka:
        assert len(kafka.bootstrap_servers.split(",")) == 2
        kafka.create_topic("a", partitions=4)
        with pytest.raises(EmbeddedServiceError, match="4 partitions for b, not 1"):
            kafka.create_topic("b", partitions=1)
        with pytest.raises(EmbeddedServiceError, match="cannot simulate faults"):
            kafka.set_down(1)
