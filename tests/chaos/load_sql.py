"""Writers in plain SQL with keys that many want, whose transactions take their time and are not all committed."""

import asyncio
import random
import time
from uuid import UUID, uuid4

import asyncpg

from app.db import DRIVER_ERRORS
from tests.chaos.history import Outcome
from tests.chaos.load_http import Load
from tests.chaos.processes import Child
from tests.chaos.world import ORDERS
from tests.services.postgres_server import dsn

_ADD = "SELECT outbox_add($1, convert_to($2, 'UTF8'), convert_to($3 || n, 'UTF8')) FROM generate_series(1, $4) AS n"
_KEYS = 8
_LIMIT = 5.0


async def orders(load: Load, number: int) -> None:
    """Add messages of hot keys, in transactions of one or several."""
    chance = load.chance(f"orders {number}")
    connection: asyncpg.Connection | None = None
    count = 0
    while not load.stop.is_set():
        count += 1
        op_id = f"order-{number}-{count}"
        try:
            if connection is None or connection.is_closed():
                connection = await asyncpg.connect(dsn(load.world.through()), timeout=2, command_timeout=_LIMIT)
        except DRIVER_ERRORS:
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            continue
        await _order(load, chance, connection, op_id)
        await asyncio.sleep(chance.uniform(0.1, 0.5))
    if connection is not None:
        connection.terminate()


async def _order(load: Load, chance: random.Random, connection: asyncpg.Connection, op_id: str) -> None:
    key, messages = f"hot {chance.randrange(_KEYS)}", chance.choice((1, 1, 1, 2, 5))
    commits, began = chance.random() < 0.9, time.time()
    ids: list[UUID] = []
    outcome: Outcome = "fail"  # until COMMIT is sent nothing can have come of it
    try:
        transaction = connection.transaction()
        await transaction.start()
        ids = [row[0] for row in await connection.fetch(_ADD, ORDERS, key, f"{op_id} ", messages)]
        await asyncio.sleep(chance.uniform(0, 0.05))
        if commits:
            outcome = "info"
            await transaction.commit()
            outcome = "ok"
        else:
            await transaction.rollback()
    except DRIVER_ERRORS:
        connection.terminate()
    names = " ".join(str(each) for each in ids)
    load.history.tried(op_id, "order", names.encode(), began, outcome, agg=key, id=names)


async def burst(load: Load, relay: Child) -> None:
    """So many messages at once that all slots of the relays are busy for a while."""
    op_id = f"burst-{uuid4().hex[:8]}"
    began, ids = time.time(), []
    async with load.world.database() as connection:
        for number in range(16):
            rows = await connection.fetch(_ADD, ORDERS, f"burst {number}", f"{op_id} {relay.name} ", 60)
            ids += [str(row[0]) for row in rows]
    names = " ".join(ids)
    load.history.tried(op_id, "order", names.encode(), began, "ok", id=names)
