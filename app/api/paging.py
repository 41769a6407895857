"""Lists in pages: the answer's shape and its links (RFC 8288)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, Field

_Item = TypeVar("_Item")

LAST_PAGE = 1_000_000
"""Largest page number that can be asked for."""
DEFAULT_SIZE = 10


class Page(BaseModel, Generic[_Item]):
    """One page of a list."""

    items: Annotated[Sequence[_Item], Field(description="What is on this page.")]
    total: Annotated[int, Field(description="How many there are on all pages.", examples=[1])]
    page: Annotated[int, Field(description="Number of this page, from 1.", examples=[1])]
    size: Annotated[int, Field(description="Most items of a page.", examples=[DEFAULT_SIZE])]
    pages: Annotated[int, Field(description="How many pages there are.", examples=[1])]


def page_of(items: Sequence[_Item], *, total: int, page: int, size: int) -> Page[_Item]:
    """The page, with the number of pages worked out."""
    return Page(items=items, total=total, page=page, size=size, pages=-(-total // size))


def links(path: str, query: Mapping[str, str], page: Page[_Item]) -> str:
    """The header `Link` to the first, last, previous and next page, with the filters of `query` kept."""
    last = max(1, page.pages)
    targets = {"first": 1, "last": last}
    if page.page > 1:
        targets["prev"] = min(page.page - 1, last)
    if page.page < last:
        targets["next"] = page.page + 1

    def target(number: int) -> str:
        return f"{path}?{urlencode({**query, 'page': number, 'size': page.size})}"

    return ", ".join(f'<{target(number)}>; rel="{relation}"' for relation, number in targets.items())
