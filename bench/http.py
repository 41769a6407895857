"""What the message costs a request: the real handler against the same without the message, against one that asks no
database, and against the textbook's. One worker, one process, requests one after the other on each connection.
"""

from bench import processes
from bench.http_server import CONTENDERS
from bench.options import Options
from bench.processes import child
from bench.results import Found, Goal, Table, ratios
from bench.services import Services
from tests.services.ports import free_port

_CONNECTIONS = 32
_SECONDS = 4.0

_NOTHING, _WITHOUT, _WITH, _ORM = CONTENDERS


async def run(services: Services, options: Options) -> list[Table]:
    found = Found()
    port = free_port()
    environment = services.environment(rate_limit_writes=0, rate_limit_reads=0, api_pool_size=16)
    async with child("bench.http_server", environment, str(port)) as server:
        await server.hear()
        for number in range(options.rounds + 1):
            for name, path in CONTENDERS.items():
                async with services.database() as connection:
                    await connection.execute("TRUNCATE applications, outbox_messages, bench_applications, bench_outbox")
                    await connection.execute("CHECKPOINT")
                before = processes.cpu_seconds([server.pid]), services.postgres_cpu()
                arguments = (str(port), path, str(_CONNECTIONS), str(_SECONDS))
                async with child("bench.http_client", environment, *arguments) as client:
                    rate = float(await client.hear())
                after = processes.cpu_seconds([server.pid]), services.postgres_cpu()
                if number == 0:
                    continue  # prepares statements and warms up
                answers = rate * (_SECONDS + 0.5)
                found[name]["requests/s"].append(rate)
                found[name]["µs of the API"].append((after[0] - before[0]) / answers * 1e6)
                found[name]["µs of PostgreSQL"].append((after[1] - before[1]) / answers * 1e6)
    rates = {name: columns["requests/s"] for name, columns in found.items()}
    goals = (
        Goal("with the message ÷ without", ratios(rates[_WITH], rates[_WITHOUT]), floor=0.85),
        Goal("with the message ÷ textbook ORM", ratios(rates[_WITH], rates[_ORM]), floor=1.5),
        Goal("with the message ÷ nothing", ratios(rates[_WITH], rates[_NOTHING]), floor=0.45),
    )
    rows = found.rows()
    return [Table("http", "POST /applications, 32 connections, one worker", rows, goals)]
