"""Named places at which a test lets a process die, fail, wait or be cancelled. In a product none of that can happen.

What happens there, and the way to ask for it, are no part of the product: no setting, variable or argument of it sets
`hook`, only code of the tests does.
"""

from collections.abc import Awaitable, Callable

hook: Callable[[str], Awaitable[None]] | None = None
"""What to do at a point, by its name. None unless a test has set it."""


async def reach(point: str) -> None:
    """Say that this point is reached. Costs a comparison with None."""
    if hook is not None:
        await hook(point)
