import re
from urllib.parse import parse_qs, urlsplit

import pytest

from app.api.paging import links, page_of


def _links(total: int, page: int, size: int, **query: str) -> dict[str, int]:
    header = links("/things", query, page_of([], total=total, page=page, size=size))
    found = re.findall(r'<([^>]*)>; rel="(\w+)"', header)
    for target, _ in found:
        asked = parse_qs(urlsplit(target).query)
        assert {name: values[0] for name, values in asked.items()} == {
            **query,
            "page": asked["page"][0],
            "size": str(size),
        }
    return {relation: int(parse_qs(urlsplit(target).query)["page"][0]) for target, relation in found}


@pytest.mark.parametrize(
    ("total", "page", "size", "expected"),
    [
        (0, 1, 10, {"first": 1, "last": 1}),
        (10, 1, 10, {"first": 1, "last": 1}),
        (11, 1, 10, {"first": 1, "last": 2, "next": 2}),
        (11, 2, 10, {"first": 1, "last": 2, "prev": 1}),
        (30, 2, 10, {"first": 1, "last": 3, "prev": 1, "next": 3}),
        (30, 99, 10, {"first": 1, "last": 3, "prev": 3}),
        (0, 99, 10, {"first": 1, "last": 1, "prev": 1}),
    ],
)
def test_links_lead_only_to_pages_that_exist(total: int, page: int, size: int, expected: dict[str, int]) -> None:
    assert _links(total, page, size) == expected


def test_links_keep_the_filter() -> None:
    _links(30, 2, 5, user_name='Анна & <Co>, "x"; rel="next"')


@pytest.mark.parametrize(("total", "pages"), [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2)])
def test_counts_pages(total: int, pages: int) -> None:
    assert page_of([], total=total, page=1, size=5).pages == pages
