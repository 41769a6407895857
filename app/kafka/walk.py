"""Going through partitions answer by answer, the next one always under way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from aiokafka.errors import OffsetOutOfRangeError

_T = TypeVar("_T")

Fetch: TypeAlias = Callable[[int, int], Coroutine[Any, Any, tuple[list[_T], int]]]
"""What there is of a partition from an offset on, and the offset after it. Raises OffsetOutOfRangeError."""


class Bounds(NamedTuple):
    """Offsets of a partition: the first, and the one after the last. Of a log: what it holds at present."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer(Generic[_T]):
    """All that a partition has from `first` up to `end`; `gone`: the log no longer begins before `end`."""

    partition: int
    found: list[_T]
    first: int
    end: int
    gone: bool


async def walk(
    wanted: Mapping[int, Bounds], fetch: Fetch[_T], beginning: Callable[[int], Awaitable[int]]
) -> AsyncIterator[Answer[_T]]:
    """One partition after the other, at least one answer of each. `beginning`: the first offset of a log.

    The next answer, be it the next partition's, is fetched while the last is looked at. `fetch` may give more than
    is wanted.
    """
    todo = [(partition, *bounds) for partition, bounds in wanted.items()]
    todo.reverse()

    def begin() -> asyncio.Task[tuple[list[_T], int]] | None:
        if not todo or todo[-1][1] >= todo[-1][2]:
            return None
        partition, first, _ = todo[-1]
        return asyncio.create_task(fetch(partition, first))

    fetching = begin()
    try:
        while todo:
            partition, first, end = todo.pop()
            found, following, gone = list[_T](), end, False
            try:
                if fetching is not None:
                    found, following = await fetching
            except OffsetOutOfRangeError:
                present = await beginning(partition)
                gone = first < present
                following = present if gone else end
            following = min(following, end)
            if following < end:
                todo.append((partition, following, end))
            fetching = begin()
            yield Answer(partition, found, first, following, gone)
    finally:
        if fetching is not None:
            fetching.cancel()
            # Whoever stops here does not want to know how the next one ended.
            fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
