"""What all processes share of a provider: whether it may be asked, and if not, until when and why.

The state is a row (`integration_providers`), so that a provider that is down, or refuses our key, is found out once
and not by each process; its times are the database's.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.lifecycle import jittered
from app.settings import Settings
from app.tasks.outcomes import ProviderName

_LONGEST_EXPONENT = 20

# One more failure in a row; from some number on each closes the provider, ever longer.
_COUNT_FAILURE = text(
    """
    UPDATE integration_providers
    SET failures = failures + 1,
        closed_until = CASE
            WHEN failures + 1 >= :failures_to_close THEN greatest(
                closed_until,
                clock_timestamp() + least(
                    CAST(:pause_min AS interval)
                        * power(2, least(failures + 1 - :failures_to_close, CAST(:longest_exponent AS integer))),
                    CAST(:pause_max AS interval)
                )
            )
            ELSE closed_until
        END
    WHERE provider = :provider
    RETURNING failures
    """
)
_CLOSE = text(
    """
    UPDATE integration_providers
    SET closed_until = greatest(closed_until, clock_timestamp() + CAST(:pause AS interval)),
        blocked = coalesce(CAST(:blocked AS text), blocked)
    WHERE provider = :provider
    """
)
_REOPEN = text(
    "UPDATE integration_providers SET failures = 0, blocked = NULL, closed_until = '-infinity' "
    "WHERE provider = :provider"
)
_STATES = text(
    """
    SELECT provider, failures >= :failures_to_close AS is_failing, blocked,
        closed_until > clock_timestamp() AS is_closed
    FROM integration_providers ORDER BY provider
    """
)


@dataclass(frozen=True, slots=True)
class Gate:
    """A provider as all processes see it."""

    provider: ProviderName
    is_failing: bool
    blocked: str | None
    is_closed: bool


async def count_failure(session: AsyncSession, provider: ProviderName, settings: Settings) -> int:
    """Record a failure that is the provider's; how many there are in a row."""
    failures: int = await session.scalar(
        _COUNT_FAILURE,
        {
            "provider": provider,
            "failures_to_close": settings.provider_failures_to_close,
            "pause_min": jittered(settings.provider_pause_min),
            "pause_max": jittered(settings.provider_pause_max),
            "longest_exponent": _LONGEST_EXPONENT,
        },
    )
    return failures


async def close(session: AsyncSession, provider: ProviderName, pause: timedelta, *, blocked: str | None = None) -> None:
    """Ask nothing for so long; with `blocked`, because the provider refuses us until somebody does something."""
    await session.execute(_CLOSE, {"provider": provider, "pause": pause, "blocked": blocked})


async def reopen(session: AsyncSession, provider: ProviderName) -> None:
    """Ask again at once: somebody did something."""
    await session.execute(_REOPEN, {"provider": provider})


async def states(session: AsyncSession, settings: Settings) -> list[Gate]:
    """All providers."""
    rows = await session.execute(_STATES, {"failures_to_close": settings.provider_failures_to_close})
    return [Gate(**row._mapping) for row in rows]
