"""How much a slot takes at a time: what that does to speed and memory, with small messages and with large ones."""

from collections import defaultdict

from bench.drain import Run, relay
from bench.messages import samples
from bench.options import Options
from bench.results import Measure, Table, ratios
from bench.services import PARTITIONS, Services

_ROUNDS = {1000: 2, 2000: 4, 4000: 8, 8000: 16}
"""Messages and MiB, the latter just so many that bytes of small messages need not be counted (see the fetch)."""
_LARGE = 100_000
_SMALLER = 50
"""A backlog of large messages has so many times fewer of them."""


async def run(services: Services, options: Options) -> list[Table]:
    topic = await services.kafka.create_topic("rounds", partitions=PARTITIONS)
    return [
        await _table(services, options, topic, options.messages, 300),
        await _table(services, options, topic, options.messages // _SMALLER, _LARGE),
    ]


async def _table(services: Services, options: Options, topic: str, count: int, size: int) -> Table:
    messages = samples(count, topic=topic, size=size)
    runs: defaultdict[int, list[Run]] = defaultdict(list)
    for turn in range(options.rounds + 1):
        for limit, size_limit in _ROUNDS.items():
            limits = {"relay_batch_messages": limit, "relay_batch_bytes": size_limit << 20}
            run = await relay(services, topic, messages, **limits)
            if turn > 0:  # the broker is warm now
                runs[limit].append(run)
    first = [each.rate for each in runs[min(_ROUNDS)]]
    rows = {
        f"{limit:,} messages, {_ROUNDS[limit]} MiB": {
            "messages/s": Measure(tuple(each.rate for each in each_round)),
            "× the first": ratios([each.rate for each in each_round], first),
            "client µs": Measure(tuple(each.client for each in each_round)),
            "memory": Measure(tuple(each.memory for each in each_round), " MB"),
        }
        for limit, each_round in runs.items()
    }
    return Table(f"rounds ({size:,} bytes)", f"{count:,} messages owed, by what a slot takes at a time", rows)
