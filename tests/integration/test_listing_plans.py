"""Lists of a million applications: each page comes from an index, and far pages cost what near ones do."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from app.api.paging import REACH
from app.applications import search_index
from app.errors import OutboxError
from tests.api import Api, api_on
from tests.services.postgres_server import PostgresServer

_ROWS = 1_000_000
# A tenth have one name, the others are rare; a name comes up all over the time.
_FILL = """
    INSERT INTO applications (user_name, user_name_folded, description, created_at)
    SELECT name, name, 'd', timestamptz '2026-01-01 00:00+0' + i * interval '1 second'
    FROM generate_series(1, $1::integer) AS i,
    LATERAL (SELECT CASE WHEN i % 10 = 0 THEN 'anna' ELSE 'user ' || lpad((i % 50021)::text, 6, '0') END) AS n (name)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def api(postgres: PostgresServer, template_database: str) -> AsyncIterator[Api]:
    url = await postgres.create_database(template_database)
    async with api_on(url, api_database_deadline=120) as api:
        async with api.engine.begin() as connection:
            await connection.exec_driver_sql(_FILL, (_ROWS,))
        async with api.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql("VACUUM ANALYZE applications")
        yield api
    await postgres.drop_database(url)


async def _plan(api: Api, query: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What PostgreSQL did for this query: the whole of it, and each step."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(api.engine.sync_engine, "before_cursor_execute", listen)
    response = await api.client.get(f"/applications?{query}")
    event.remove(api.engine.sync_engine, "before_cursor_execute", listen)
    assert response.status_code == 200, response.text
    statement, parameters = asked[-1]
    async with api.engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        found = plan.scalar_one()
    whole = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return whole, list(_steps(whole))


def _steps(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _steps(child)


def _pages_read(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("query", "index", "most"),
    [
        ("count=none", "ix_applications_created_at_id", 30),
        ("", "ix_applications_created_at_id", 600),
        ("count=none&page=1000", "ix_applications_created_at_id", 600),
        ("after=500000", "ix_applications_created_at_id", 30),
        ("after=100000", "ix_applications_created_at_id", 30),
        ("after=900000&order=oldest", "ix_applications_created_at_id", 30),
        ("count=none&user_name=anna", "ix_applications_user_name_folded_created_at_id", 40),
        ("user_name=anna", "ix_applications_user_name_folded_created_at_id", 700),
        ("after=300000&user_name=ANNA", "", 200),
        ("user_name=user 000123", "ix_applications_user_name_folded_created_at_id", 60),
        ("user_name=nobody", "ix_applications_user_name_folded_created_at_id", 20),
        (
            "count=none&created_from=2026-01-02T00:00:00Z&created_before=2026-01-03T00:00:00Z",
            "ix_applications_created_at_id",
            30,
        ),
        ("created_before=2026-01-02T00:00:00Z&order=oldest", "ix_applications_created_at_id", 600),
        (
            "user_name=anna&created_from=2026-01-02T00:00:00Z&created_before=2026-01-02T06:00:00Z",
            "ix_applications_user_name_folded_created_at_id",
            700,
        ),
        ("count=none&user_name__startswith=user 000123", "ix_applications_user_name_folded_created_at_id", 100),
        ("user_name__startswith=user 0001", "ix_applications_user_name_folded_created_at_id", 6000),
        ("count=none&user_name__startswith=nobody", "ix_applications_user_name_folded_created_at_id", 20),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_index_serves_it(api: Api, query: str, index: str, most: int) -> None:
    whole, steps = await _plan(api, query)
    # Counting to the cap may start anywhere when all rows count.
    assert not [step for step in steps if step["Node Type"] == "Seq Scan" and step["Actual Rows"] > REACH + 1]
    used = {step["Index Name"] for step in steps if "Index Name" in step}
    assert used == {index} or (not index and used)
    assert _pages_read(whole) < most


@pytest.mark.parametrize("filters", ["", "&user_name=anna"])
async def test_the_ten_thousandth_page_costs_what_the_first_does(api: Api, filters: str) -> None:
    first, _ = await _plan(api, f"after={_ROWS}{filters}")
    far, _ = await _plan(api, f"after={_ROWS - 9_999 * 10 if not filters else 10}{filters}")
    assert _pages_read(far) <= 3 * _pages_read(first)


async def test_parts_of_names_by_trigrams_where_the_server_has_them(api: Api) -> None:
    async with api.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        if not await connection.scalar(search_index._AVAILABLE):
            with pytest.raises(OutboxError, match="pg_trgm"):
                await search_index.create(connection)
            pytest.skip("this PostgreSQL has no pg_trgm")
        assert await search_index.create(connection)
        assert not await search_index.create(connection)
    whole, steps = await _plan(api, "user_name__like=000123")
    assert search_index.NAME in {step.get("Index Name") for step in steps}
    assert _pages_read(whole) < 1000
