"""What commands print."""

import io
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from rich.console import Console

from app.cli import printing
from app.cli.demo import Result, Sent, _in_order
from app.kafka.reader import Record


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 ms"), (0.85, "850 ms"), (12, "12 s"), (119, "119 s"), (180, "3 min"), (7300, "2 h"), (432_000, "5 d")],
)
def test_durations_are_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert printing.duration(timedelta(seconds=seconds)) == shown


def test_bytes_are_shown_as_text_that_cannot_move_the_cursor() -> None:
    assert printing.as_text("ключ".encode()) == "ключ"
    assert printing.as_text(b"\xff\x1b[2J\n") == "\\xff\\x1b[2J\\n"
    assert printing.as_text(None, "none") == "none"


def test_json_is_of_plain_values() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    value = {"at": moment, "age": timedelta(seconds=1.5), "id": UUID(int=1), "key": b"\xff", "name": "Анна"}
    text = printing.as_json(value)
    assert "Анна" in text
    assert json.loads(text) == {
        "at": "2026-01-02T03:04:05+00:00",
        "age": 1.5,
        "id": "00000000-0000-0000-0000-000000000001",
        "key": "\\xff",
        "name": "Анна",
    }


def test_what_people_wrote_is_no_markup() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(printing.table(("why",), [("[red]not red[/red] [/]",)]))
    assert "[red]not red[/red] [/]" in out.getvalue()


def _arrived(*places: tuple[int, int], topic: str = "demo.orders") -> tuple[Record, ...]:
    return tuple(Record(topic, partition, offset, b"key", (), b"value") for partition, offset in places)


def test_the_demo_is_right_only_with_one_of_each_promised_and_nothing_else() -> None:
    promised, broken = Sent("in", "1", promised=True), Sent("in", "1", promised=False)
    assert Result(promised, _arrived((0, 0))).ok
    assert not Result(promised, ()).ok
    assert not Result(promised, _arrived((0, 0), (0, 5))).ok
    assert Result(broken, ()).ok
    assert not Result(broken, _arrived((0, 0))).ok


def test_the_demo_is_right_only_in_order_and_in_one_partition() -> None:
    promised = Sent("in", "1", promised=True)
    first, second = Result(promised, _arrived((1, 3))), Result(promised, _arrived((1, 4)))
    assert _in_order([first, second])
    assert not _in_order([second, first])
    assert not _in_order([first, Result(promised, _arrived((2, 4)))])
