"""Lists in pages: the answer's shape and its links (RFC 8288)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, Field

_Item = TypeVar("_Item")

LAST_PAGE = 1_000_000
"""Largest page number that can be asked for."""
REACH = 10_000
"""How many items are counted, and how far pages reach by number: finding a page costs time for each item before it.
Pages that are asked for by the item before them (`after`) have no end.
"""
DEFAULT_SIZE = 10
LINK = {"description": "First, last, previous and next page (RFC 8288).", "schema": {"type": "string"}}
"""The header `Link`, for the description of an answer."""

PageNumber = Annotated[int, Field(ge=1, le=LAST_PAGE, description="Number of the page, from 1.")]


def page_size(largest: int) -> Any:
    """The field `size` of a query: how many items a page may have at most."""
    return Field(default=min(DEFAULT_SIZE, largest), ge=1, le=largest, description="Most items of a page.")


class Page(BaseModel, Generic[_Item]):
    """One page of a list. Counts are null where they were not asked for."""

    items: Annotated[Sequence[_Item], Field(description="What is on this page.")]
    total: Annotated[int | None, Field(description="How many there are on all pages.", examples=[1])]
    page: Annotated[int | None, Field(description="Number of this page, from 1.", examples=[1])]
    size: Annotated[int, Field(description="Most items of a page.", examples=[DEFAULT_SIZE])]
    pages: Annotated[int | None, Field(description="How many pages there are.", examples=[1])]
    total_is_lower_bound: Annotated[
        bool, Field(exclude_if=lambda flag: not flag, description=f"`true`: there are more than {REACH}.")
    ] = False


def page_of(
    items: Sequence[_Item], *, total: int | None, page: int | None, size: int, at_least: bool = False
) -> Page[_Item]:
    """The page, with the number of pages worked out. `at_least`: there are more than `total`."""
    pages = None if total is None else -(-total // size)
    return Page(items=items, total=total, page=page, size=size, pages=pages, total_is_lower_bound=at_least)


def reaches(page: int, size: int) -> bool:
    """May this page be asked for by its number?"""
    return (page - 1) * size < REACH


def links(path: str, query: Mapping[str, str], page: Page[_Item], *, after: int | None = None) -> str:
    """The header `Link` to the first, last, previous and next page, with the filters of `query` kept.

    `after` leads to the next page by the last item of this one, where numbers do not lead.
    """
    targets: dict[str, dict[str, int]] = {"first": {"page": 1}}
    if page.page is not None:
        last = None if page.pages is None else max(1, page.pages)
        if last is not None and not page.total_is_lower_bound:
            targets["last"] = {"page": last}
        if page.page > 1:
            targets["prev"] = {"page": min(page.page - 1, last or page.page)}
        if last is not None and page.page < last and (after is None or reaches(page.page + 1, page.size)):
            targets["next"] = {"page": page.page + 1}
    if after is not None:
        targets.setdefault("next", {"after": after})

    def target(where: Mapping[str, int]) -> str:
        return f"{path}?{urlencode({**query, **where, 'size': page.size})}"

    return ", ".join(f'<{target(where)}>; rel="{relation}"' for relation, where in targets.items())
