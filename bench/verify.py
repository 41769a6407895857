"""How fast `outbox verify` reads, and how much memory that takes, however many keys there are."""

from dataclasses import dataclass

from bench import outbox, processes
from bench.messages import samples
from bench.options import Options
from bench.processes import child
from bench.results import Goal, Measure, Table
from bench.services import PARTITIONS, Services

_CHUNK = 100_000
_FEW_KEYS = 1000
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class _Audit:
    """One audit: records per second, and CPU microseconds per record."""

    rate: float
    cpu: float


async def run(services: Services, options: Options) -> list[Table]:
    rows: dict[str, dict[str, Measure]] = {}
    for name, keys in ((f"{_FEW_KEYS:,} keys", _FEW_KEYS), ("hardly a key twice", options.messages)):
        audits, peak = await _audits(services, options, keys)
        rows[name] = {
            "records/s": Measure(tuple(each.rate for each in audits)),
            "CPU µs": Measure(tuple(each.cpu for each in audits)),
        }
        if peak is not None:
            rows[name]["peak"] = Measure((peak,), " MB")
    goals = [Goal(f"records/s of {name}", row["records/s"], floor=200_000) for name, row in rows.items()]
    goals += [Goal(f"memory of {name}", row["peak"], ceiling=250) for name, row in rows.items() if "peak" in row]
    title = f"{options.messages:,} messages of 300 bytes, delivered by a relay, {PARTITIONS} partitions, zstd"
    return [Table("verify", title, rows, goals)]


async def _audits(services: Services, options: Options, keys: int) -> tuple[list[_Audit], float | None]:
    topic = await services.kafka.create_topic(f"verify-{keys}", partitions=PARTITIONS)
    await _deliver(services, topic, options.messages, keys)
    audits = []
    async with child("bench.verify_process", services.environment(), topic) as auditor:
        for _ in range(options.rounds):
            auditor.say("again")
            records, seconds, cpu, findings = await auditor.hear()
            if findings:
                raise RuntimeError(f"the auditor found {findings} kinds of damage in what was just delivered")
            audits.append(_Audit(records / seconds, cpu / records * 1e6))
        peak = processes.peak_memory(auditor.pid) / _MEGABYTE if processes.can_measure() else None
    return audits, peak


async def _deliver(services: Services, topic: str, count: int, keys: int) -> None:
    async with services.database() as connection:
        await outbox.clear(connection)
        async with child("bench.relay_process", services.environment()) as relay:
            for start in range(0, count, _CHUNK):
                size = min(_CHUNK, count - start)
                await outbox.fill(connection, topic, samples(size, topic=topic, keys=keys, seed=start))
                relay.say([topic, size])
                await relay.hear()
        # A bench would otherwise measure the first reader's cleaning up.
        await connection.execute("VACUUM (ANALYZE) outbox_receipt_batches")
