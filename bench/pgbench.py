"""A writer that takes little of the machine: pgbench, which PostgreSQL has for this. It comes with the embedded one."""

import asyncio
import os
import tempfile
from pathlib import Path

from app.embedded.binaries import bundled
from bench.messages import samples
from bench.services import Services
from tests.services.postgres_server import dsn

CLIENTS = 10
_PAYLOADS = 1000
_TABLE = "CREATE TABLE IF NOT EXISTS bench_payloads (number int PRIMARY KEY, payload bytea NOT NULL)"
_SCRIPT = f"""
\\set number :number + 1
BEGIN;
{{write}} FROM bench_payloads WHERE number = :number % {_PAYLOADS};
COMMIT;
"""

KEY = "convert_to('key-' || :client_id || '-' || :number, 'UTF8')"
"""In a statement: the key of the message, another one each time."""


async def write(services: Services, topic: str, statement: str, rate: int, seconds: float) -> dict[bytes, float]:
    """Execute `statement` in so many transactions a second, whatever becomes of them; by key, when the COMMIT of each
    was answered (seconds since 1970).

    It may name `:topic`, KEY, and `payload`, and goes on with FROM. Transactions begin at random moments (pgbench's
    Poisson schedule), as those of many users do.
    """
    async with services.database() as connection:
        await connection.execute(_TABLE)
        if not await connection.fetchval("SELECT EXISTS (TABLE bench_payloads)"):  # they stay for the next turn
            payloads = [(number, each.payload) for number, each in enumerate(samples(_PAYLOADS, topic="any"))]
            await connection.copy_records_to_table("bench_payloads", records=payloads)
            await connection.execute("ANALYZE bench_payloads")
    with tempfile.TemporaryDirectory(prefix="outbox-pgbench-") as folder:
        script = Path(folder) / "script"
        script.write_text(_SCRIPT.format(write=statement), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(str(bundled().program("pgbench")), "--no-vacuum", "--protocol=prepared"),
            *(f"--client={CLIENTS}", f"--rate={rate}", f"--transactions={round(rate * seconds / CLIENTS)}"),
            *(f"--define=topic={topic}", "--define=number=0", f"--file={script}"),
            *("--log", f"--log-prefix={folder}/log", dsn(services.database_url)),
            env={**os.environ, "PGAPPNAME": "bench-writer"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"pgbench ended with status {process.returncode}: {errors.decode()}")
        return _committed(Path(folder))


def _committed(folder: Path) -> dict[bytes, float]:
    """What the logs say. A line: client, number of its transaction, µs it took, script, and when it ended, in seconds
    since 1970 and microseconds.
    """
    lines = [line.split() for log in folder.glob("log*") for line in log.read_text().splitlines()]
    return {
        f"key-{client}-{number}".encode(): int(second) + int(microsecond) / 1e6
        for client, number, _, _, second, microsecond, *_ in lines
    }
