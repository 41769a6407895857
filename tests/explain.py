"""What PostgreSQL does for the very statements of a slot, in a session like a slot's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

_ROWS = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")


@dataclass(frozen=True)
class Explained:
    """A plan that was run."""

    plan: dict[str, Any]

    @property
    def buffers(self) -> int:
        """Pages touched."""
        return int(self.plan["Shared Hit Blocks"] + self.plan["Shared Read Blocks"])

    @property
    def rows(self) -> int:
        """Rows that the busiest node of the plan returned or threw away, in all its loops."""
        return max(
            int(node["Actual Loops"] * sum(node.get(name, 0) for name in _ROWS)) for node in self._nodes(self.plan)
        )

    @property
    def indexes(self) -> set[str]:
        """Indexes that were used."""
        return {node["Index Name"] for node in self._nodes(self.plan) if "Index Name" in node}

    @property
    def read_whole(self) -> set[str]:
        """Tables that were read from one end to the other."""
        return {node["Relation Name"] for node in self._nodes(self.plan) if node["Node Type"] == "Seq Scan"}

    def _nodes(self, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield plan
        for part in plan.get("Plans", ()):
            yield from self._nodes(part)


async def explain(connection: asyncpg.Connection, statement: str, *arguments: str) -> Explained:
    """Run the statement with these arguments (SQL literals), as a prepared one."""
    await connection.execute(f"PREPARE explained AS {statement}")
    try:
        return await explain_prepared(connection, "explained", *arguments)
    finally:
        await connection.execute("DEALLOCATE explained")


async def explain_prepared(connection: asyncpg.Connection, name: str, *arguments: str) -> Explained:
    """Run what was prepared under this name; in a slot's session it keeps the plan of its first run."""
    values = f"({', '.join(arguments)})" if arguments else ""
    result = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name}{values}")
    return Explained(json.loads(result)[0]["Plan"])


def array(values: list[Any]) -> str:
    """The literal of a one-dimensional array."""
    return "'{" + ",".join(str(value).lower() for value in values) + "}'"
