"""Whether draining slows down while an old snapshot keeps PostgreSQL from cleaning up what was delivered."""

import statistics
import time
from contextlib import AsyncExitStack

from bench import outbox
from bench.baselines import WARM_UP
from bench.messages import samples
from bench.options import Options
from bench.processes import child
from bench.results import Found, Goal, Table
from bench.services import PARTITIONS, Services

_ROUNDS = 10
_ENDS = 3
"""So many rounds at each end are compared: single ones vary."""


async def run(services: Services, options: Options) -> list[Table]:
    found = Found()
    for _ in range(options.rounds):
        for name, held in (("no old snapshot", False), ("snapshot held", True)):
            rates = await _rates(services, options.messages // 5, held=held)
            first, last = statistics.median(rates[:_ENDS]), statistics.median(rates[-_ENDS:])
            found[name]["first messages/s"].append(first)
            found[name]["last messages/s"].append(last)
            found[name]["last / first"].append(last / first)
    rows = found.rows()
    return [
        Table(
            "snapshot",
            f"{_ROUNDS} drains of {options.messages // 5:,} messages; medians of the first and the last {_ENDS}",
            rows,
            [Goal("last / first with a snapshot held", rows["snapshot held"]["last / first"], floor=0.9)],
        )
    ]


async def _rates(services: Services, count: int, *, held: bool) -> list[float]:
    topic = await services.kafka.create_topic(partitions=PARTITIONS)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(services.database())
        await outbox.clear(connection)
        relay = await stack.enter_async_context(child("bench.relay_process", services.environment()))
        await outbox.connected(connection, services.settings().relay_slots)
        await outbox.fill(connection, topic, samples(WARM_UP, topic=topic))
        relay.say([topic, WARM_UP])
        await relay.hear()
        if held:
            reader = await stack.enter_async_context(services.database())
            await stack.enter_async_context(reader.transaction(isolation="repeatable_read"))
            await reader.fetchval("SELECT count(*) FROM outbox_lanes")
        rates = []
        for number in range(_ROUNDS):
            messages = samples(count, topic=topic, seed=number)
            relay.say([topic, count])
            started = await outbox.fill(connection, topic, messages)
            await relay.hear()
            rates.append(count / (time.monotonic() - started))
        await outbox.check_empty(connection)
    return rates
