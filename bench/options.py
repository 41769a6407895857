"""How much to measure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`messages` to drain, in `rounds` of each contender; `seconds` of open-loop traffic or of rest."""

    messages: int = 100_000
    rounds: int = 3
    seconds: int = 20
    owed: int = 1_000_000
