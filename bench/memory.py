"""What a large backlog costs: the relay's memory, and its speed while the backlog is large."""

import time

from bench import outbox, processes
from bench.messages import samples
from bench.options import Options
from bench.processes import child
from bench.results import MEGABYTE, Goal, Measure, Table
from bench.services import PARTITIONS, Services

_CHUNK = 100_000
_DRAINED = 0.2
"""Share of the backlog that is delivered: memory does not grow after the first rounds."""


async def run(services: Services, options: Options) -> list[Table]:
    if not processes.can_measure():
        return [Table("memory", "cannot be measured here: there is no /proc", {})]
    topic = await services.kafka.create_topic("memory", partitions=PARTITIONS)
    delivered = round(options.owed * _DRAINED)
    async with services.database() as connection:
        await outbox.clear(connection)
        for start in range(0, options.owed, _CHUNK):
            size = min(_CHUNK, options.owed - start)
            await outbox.fill(connection, topic, samples(size, topic=topic, seed=start))
        started = time.monotonic()
        async with child("bench.relay_process", services.environment()) as relay:
            relay.say([topic, delivered])
            await relay.hear()
            seconds = time.monotonic() - started
            peak = Measure((processes.peak_memory(relay.pid) / MEGABYTE,), " MB")
        await outbox.clear(connection)
    row = {"peak": peak, "messages/s": Measure((delivered / seconds,))}
    return [
        Table(
            "memory",
            f"{options.owed:,} messages of 300 bytes owed, the first {delivered:,} delivered, start included",
            {"relay": row},
            [Goal("memory of the relay", peak, ceiling=150)],
        )
    ]
