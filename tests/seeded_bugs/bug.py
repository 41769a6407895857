"""What a seeded bug is."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest

from tests.services.kafka import Kafka, MockKafka


@dataclass(frozen=True)
class Bench:
    """What a trial has."""

    database_url: str
    kafka: Kafka
    mock_kafka: Callable[[int], MockKafka]
    stack: AsyncExitStack
    """What a bug leaves behind is cleared away at the end."""
    patience: timedelta
    """How long to wait for what a bug keeps from happening."""


@dataclass(frozen=True)
class Bug:
    """A mistake that looks right. `seed` makes the product have it, in this process and for one test.

    `trial` is a piece of the product's life, judged as always: it passes without the bug, and with it fails saying
    something like `says` (a regular expression).
    """

    name: str
    what: str
    invariant: str
    caught_by: str
    says: str
    seed: Callable[[pytest.MonkeyPatch, Bench], None]
    trial: Callable[[Bench], Awaitable[None]]
    real_kafka: bool = False
