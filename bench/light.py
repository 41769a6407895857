"""What a round of light traffic costs without its publishing: found, fetched, settled, committed (0014, 0015, 0017)."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import asyncpg

from bench import processes
from bench.options import Options
from bench.results import Found, Table
from bench.services import Services
from relay import settlement, statements, store
from relay.floor import Lane
from relay.outcomes import Delivered, OwedMessage

_ROUNDS = 300
_UNTIMED = 10  # statements are prepared then
_MESSAGES = 8
_BATCHES = 3
_LIMIT, _SIZE = 500, 1 << 20
_ADD = "SELECT outbox_add('bench', $1::bytea, $2::bytea)"

Messages: TypeAlias = Sequence[OwedMessage]
Settle: TypeAlias = Callable[[Messages], Awaitable[None]]
Round: TypeAlias = Callable[[asyncpg.Connection, Settle], Awaitable[None]]


async def run(services: Services, options: Options) -> list[Table]:
    ways: dict[str, Round] = {
        "look, claim, fetch of everything": _everything,
        "look, claim, plain fetch": _plainly,
        "claim of what is owed, plain fetch, chained": _chained,
        "the same, and the disk is waited for": _durably,
    }
    found = Found()
    for _ in range(options.rounds):
        for way, one_round in ways.items():
            for column, seconds in (await _rounds(services, one_round)).items():
                found[way][column].append(seconds / _ROUNDS * 1e6)
    rows = found.rows()
    return [
        Table("decisions: light rounds", f"A round of {_MESSAGES} messages, without its publishing", rows),
        await _settles(services, options),
    ]


async def _settles(services: Services, options: Options) -> Table:
    """The settle alone, in turns of both ways to name what is deleted."""
    found = Found()
    few, settings = statements.FEW, services.settings()
    slot = await store.connect(settings)
    async with services.database() as connection:
        for _ in range(options.rounds * 3):
            for way, limit in (("by where they were seen", few), ("by lane and id", 0)):
                statements.FEW = limit
                await connection.execute("TRUNCATE outbox_messages, outbox_receipt_batches")
                took = 0.0
                for turn in range(_ROUNDS + _UNTIMED):
                    await _fill(connection)
                    await slot.execute("BEGIN")
                    lanes = await store.claim_owed(slot)
                    owed = (await store.fetch(slot, lanes, messages=_LIMIT, size=_SIZE, counted=False)).messages
                    batches = [Delivered(owed[number::_BATCHES], number, 0) for number in range(_BATCHES)]
                    started = time.monotonic()
                    await settlement.settle(slot, settlement.Settlement(delivered=batches), settings)
                    took += time.monotonic() - started if turn >= _UNTIMED else 0
                    await slot.execute("COMMIT")
                found[way]["µs"].append(took / _ROUNDS * 1e6)
    statements.FEW = few
    await slot.close(timeout=10)
    rows = found.rows()
    return Table("decisions: settles", f"{_MESSAGES} messages in {_BATCHES} batches deleted, with their receipts", rows)


async def _rounds(services: Services, one_round: Round) -> dict[str, float]:
    """Seconds that these rounds took, of the clock and of the CPU."""
    settings = services.settings()
    slot = await store.connect(settings)

    async def settle(messages: Messages) -> None:
        if len(messages) != _MESSAGES:
            raise RuntimeError(f"{len(messages)} messages came, not {_MESSAGES}")
        await settlement.settle(slot, settlement.Settlement(delivered=[Delivered(list(messages), 0, 0)]), settings)

    took = client = 0.0
    async with services.database() as connection:
        await connection.execute("TRUNCATE outbox_messages, outbox_receipt_batches")
        before = 0.0
        for turn in range(_ROUNDS + 1):
            await _fill(connection)
            started, worked = time.monotonic(), time.process_time()
            await one_round(slot, settle)
            if turn > 0:
                took, client = took + time.monotonic() - started, client + time.process_time() - worked
            else:  # statements were prepared, and perhaps a transaction begun
                before = processes.cpu_seconds([slot.get_server_pid()])
        server = processes.cpu_seconds([slot.get_server_pid()]) - before
    await slot.close(timeout=10)
    return {"µs": took, "client µs": client, "PostgreSQL µs": server}


async def _fill(connection: asyncpg.Connection) -> None:
    """The messages of a round."""
    for number in range(_MESSAGES):
        await connection.execute(_ADD, b"key %d" % number, b"x" * 300)


async def _everything(slot: asyncpg.Connection, settle: Settle) -> None:
    await settle((await store.fetch_everything(slot, await _claim(slot), messages=_LIMIT, size=_SIZE)).messages)
    await slot.execute("COMMIT")


async def _plainly(slot: asyncpg.Connection, settle: Settle) -> None:
    await settle((await store.fetch(slot, await _claim(slot), messages=_LIMIT, size=_SIZE)).messages)
    await slot.execute("COMMIT")


async def _chained(slot: asyncpg.Connection, settle: Settle) -> None:
    if not slot.is_in_transaction():
        await slot.execute("BEGIN")
    lanes = await store.claim_owed(slot)
    await settle((await store.fetch(slot, lanes, messages=_LIMIT, size=_SIZE, counted=False)).messages)
    await slot.execute("COMMIT AND CHAIN")


async def _durably(slot: asyncpg.Connection, settle: Settle) -> None:
    if not slot.is_in_transaction():
        await slot.execute("SET synchronous_commit = on")
    await _chained(slot, settle)


async def _claim(slot: asyncpg.Connection) -> Sequence[Lane]:
    look = await store.look(slot)
    await slot.execute("BEGIN")
    return await store.claim(slot, look.lanes, limit=32)
