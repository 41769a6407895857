"""What commands print: tables for people, JSON for programs. Results go to standard output, the rest to the other."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH_OF_A_FILE = 200
"""Columns when the output is no terminal, so that tables are not folded for a width that nobody has."""


def as_json(value: object) -> str:
    """One line of JSON: dataclasses as objects, durations in seconds, moments in ISO 8601, bytes as text."""
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return as_text(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        case _:
            return str(value)


def as_text(value: bytes | None, nothing: str = "") -> str:
    """Bytes to read; what is not UTF-8 or not printable is escaped."""
    if value is None:
        return nothing
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in value.decode("utf-8", "backslashreplace")
    )


def duration(value: timedelta) -> str:
    """A duration to read: `850 ms`, `12 s`, `3 min`, `2 h`, `5 d`."""
    seconds = value.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(value: datetime | None) -> str:
    """A moment to read, in UTC, to the second."""
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M:%SZ")


def console() -> "Console":
    """Standard output, with colours if it is a terminal."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> "Table":
    """A table; numbers are set to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    content = [list(row) for row in rows]
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        right = any(isinstance(row[number], int) for row in content)
        result.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in content:
        # Never as markup: a key or a reason may hold brackets.
        result.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return result


def note(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)
