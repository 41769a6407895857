"""What the service costs when there is nothing to do."""

import asyncio

from bench import outbox, processes
from bench.options import Options
from bench.processes import child
from bench.results import Goal, Measure, Table
from bench.services import Services

_SETTLING = 3.0  # seconds after the start


async def run(services: Services, options: Options) -> list[Table]:
    if not processes.can_measure():
        return [Table("idle", "cannot be measured here: there is no /proc", {})]
    async with services.database() as connection:
        await outbox.clear(connection)
        environment = services.environment(api_port=0)
        async with child("bench.api_process", environment) as api, child("bench.relay_process", environment) as relay:
            await api.hear()
            await outbox.connected(connection, services.settings().relay_slots)
            await asyncio.sleep(_SETTLING)
            before = _used(services, api.pid, relay.pid)
            await asyncio.sleep(options.seconds)
            used = [now - then for now, then in zip(_used(services, api.pid, relay.pid), before, strict=True)]
    api_share, relay_share, postgres_share = (100 * seconds / options.seconds for seconds in used)
    rows = {
        name: {"of a core": Measure((share,), " %")}
        for name, share in (("API", api_share), ("relay", relay_share), ("PostgreSQL for them", postgres_share))
    }
    both = Measure((api_share + relay_share,), " %")
    return [
        Table("idle", f"CPU over {options.seconds} s without a request", rows, [Goal("API and relay", both, ceiling=3)])
    ]


def _used(services: Services, api: int, relay: int) -> tuple[float, float, float]:
    return processes.cpu_seconds([api]), processes.cpu_seconds([relay]), services.postgres_cpu()
