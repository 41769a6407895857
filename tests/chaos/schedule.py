"""Which fault comes when: a pure function of the seed, so that a run can be repeated."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of fault: on whose track it is, how long it lasts, how long what follows from it takes (seconds)."""

    name: str
    track: str
    shortest: float
    longest: float
    aftermath: float
    what: str


@dataclass(frozen=True)
class Planned:
    """A fault to come. `at` and `seconds` are seconds, `at` from the start; `choice` in [0, 1) picks its victim.

    The first of its kind comes in any case; the others, on a slow machine, only if there is time.
    """

    at: float
    kind: str
    track: str
    seconds: float
    choice: float
    first: bool


KINDS = {
    kind.name: kind
    for kind in (
        Kind("kill-relay", "processes", 0.2, 2, 2, "kill -9 of a relay in the middle of a round, then another one"),
        Kind("kill-api", "processes", 0.2, 2, 2, "kill -9 of an API process"),
        Kind("kill-worker", "processes", 0.2, 2, 3, "kill -9 of a worker"),
        Kind("freeze-relay", "processes", 13, 15, 1, "SIGSTOP of a relay in the middle of a round, past its time-out"),
        Kind("freeze-api", "processes", 3, 5, 1, "SIGSTOP of an API process"),
        Kind("freeze-worker", "processes", 7, 10, 2, "SIGSTOP of a worker, past its session"),
        Kind("stop", "processes", 0.2, 2, 3, "SIGTERM of any process"),
        Kind("clock", "processes", 0, 0, 4, "a process 59 minutes ahead or behind, for the rest"),
        Kind("rebalance", "processes", 8, 12, 1, "a third worker that joins and leaves every 2 s"),
        Kind("terminate", "postgres", 2, 4, 1, "sessions of PostgreSQL terminated: 30 % of them every 50 ms"),
        Kind("crash-postgres", "postgres", 0.3, 1.5, 2, "immediate stop of PostgreSQL, then recovery"),
        Kind("disk-full", "postgres", 4, 6, 2, "no space on PostgreSQL's disk"),
        Kind("kill-broker", "kafka", 0.5, 2, 9, "SIGKILL of a broker"),
        Kind("freeze-broker", "kafka", 5, 8, 3, "SIGSTOP of a broker"),
        Kind("roll-brokers", "kafka", 0, 0, 40, "all brokers restarted, one after the other"),
        Kind("cut-postgres", "postgres", 1, 3, 1, "all connections to PostgreSQL reset, new ones refused"),
        Kind("slow-postgres", "postgres", 3, 6, 1, "latency on the way to PostgreSQL"),
        Kind("cut-kafka", "kafka", 1, 3, 2, "connections to brokers reset, new ones refused"),
        Kind("slow-kafka", "kafka", 3, 6, 1, "latency on the way to the brokers"),
    )
}
TRACKS = ("processes", "postgres", "kafka")
"""Faults of one track come one after the other, those of different tracks at the same time."""

_FIRST = 4.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 4.0


def plan(seed: int, minutes: float, faults: Collection[str], *, alone: bool = False) -> list[Planned]:
    """The faults of a run, by time. In each round of a track each of its kinds comes once; the first round is whole.

    `alone`: all are on one track, so that what follows from each can be told from the others.

    Raises ValueError for a fault that is not known.
    """
    if unknown := set(faults) - set(KINDS):
        raise ValueError(f"there is no fault {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS.values() if kind.name in faults]
    tracks = {track: [kind for kind in kinds if kind.track == track] for track in TRACKS}
    if alone:
        tracks = {"alone": kinds}
    planned = [each for track, mine in tracks.items() for each in _track(track, mine, seed, minutes * 60)]
    return sorted(planned, key=lambda each: (each.at, each.track))


def _track(track: str, kinds: list[Kind], seed: int, length: float) -> Sequence[Planned]:
    chance = random.Random(f"{seed} {track}")
    planned: list[Planned] = []
    at, rounds = _FIRST + chance.uniform(0, 2), 0
    while kinds:
        chance.shuffle(kinds)
        for kind in kinds:
            if rounds and at + kind.longest + kind.aftermath > length:
                return planned
            seconds = round(chance.uniform(kind.shortest, kind.longest), 2)
            planned.append(Planned(round(at, 2), kind.name, track, seconds, round(chance.random(), 4), not rounds))
            at += seconds + kind.aftermath + chance.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE)
        rounds += 1
    return planned
