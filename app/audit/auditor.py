"""The audit as a whole: what it reads, in which order, and what it makes of it."""

from collections.abc import Callable, Sequence

from app.audit.report import Report
from app.audit.scope import Intake, Progress, Scope
from app.settings import Settings


def _ignore(_progress: Progress) -> None:
    """Nobody wants to know."""


async def audit(
    settings: Settings,
    scope: Scope | None = None,
    *,
    intakes: Sequence[Intake] = (),
    examples: int = 10,
    max_repeats: int | None = None,
    progress: Callable[[Progress], None] = _ignore,
) -> Report:
    """Compare what PostgreSQL holds with what stands in the topics, and change nothing.

    `intakes` are consumers whose inputs are checked against the inbox. `examples`: how many of each kind are kept.
    `max_repeats`: more repeats than this are a violation; None allows any number.
    Raises DatabaseUnavailable, BrokerUnavailable, SchemaError, and ConfigurationError when no receipts are kept.
    """
    raise NotImplementedError
