"""What is generated from the settings is as they are, and is a good page."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import settings_pages
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "generate"), [("docs/configuration.md", settings_pages.markdown), (".env.example", settings_pages.env)]
)
def test_the_page_is_not_stale(name: str, generate: Callable[[], str]) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generate(), f"{name} is stale: run `make docs`"


def test_every_setting_is_described_on_both_pages() -> None:
    pages = settings_pages.markdown(), settings_pages.env()
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} has no text below it"
        assert f"`{name.upper()}`" in pages[0]
        assert f"\n#{name.upper()}=" in pages[1]


def test_defaults_are_written_as_they_may_be_given() -> None:
    text = settings_pages.env()
    for line in ("#RELAY_POLL_MIN=0.001", "#DEAD_LETTERS_RETENTION=2592000", "#RECEIPTS=true", "#DATABASE_URL="):
        assert f"\n{line}\n" in text


def test_the_environment_file_with_everything_set_gives_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    lines = settings_pages.env().splitlines()
    # What is set on purpose below: each `#NAME=value`, without its `#`.
    active = [line[1:] for line in lines if line.startswith("#") and not line.startswith("# ")]
    file = tmp_path / "env"
    file.write_text("\n".join(active), encoding="utf-8")
    assert Settings(_env_file=file) == Settings(_env_file=None)
