"""Bad (and oddly good) input as files: `tests/corpus/CHANNEL/FAMILY.toml`, each a list of cases.

A case has a `name`, what to `expect`, and its bytes: `text`, encoded as UTF-8 or as `encoding` says after the bytes
`mark` (hex); or `hex`; or `parts`, a list of [text, times]. `{user}` in a text stands for a good user's elements.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "<Name>Иван</Name><Surname>Иванов</Surname><Email>a@example.com</Email><Birthday>2005-10-23</Birthday>"


@dataclass(frozen=True)
class Case:
    family: str
    name: str
    expect: Any
    document: bytes
    case: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def load(channel: str) -> list[Case]:
    return list(_cases(Path(__file__).parent / channel))


def _cases(folder: Path) -> Iterator[Case]:
    for file in sorted(folder.glob("*.toml")):
        for case in tomllib.loads(file.read_text(encoding="utf-8"))["case"]:
            yield Case(file.stem, case["name"], case["expect"], _document(case), case)


def _document(case: dict[str, Any]) -> bytes:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    parts = case.get("parts") or [[case["text"], 1]]
    text = "".join(_numbered(part, times) for part, times in parts).replace("{user}", USER)
    return bytes.fromhex(case.get("mark", "")) + text.encode(case.get("encoding", "utf-8"))


def _numbered(part: str, times: int) -> str:
    """`times` copies; `{n}` is the number of the copy."""
    if times == 1 or "{n}" not in part:
        return part * times
    return "".join(part.replace("{n}", str(n)) for n in range(times))
