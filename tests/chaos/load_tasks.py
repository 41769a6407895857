"""Tasks by both ways, some by both at once, some again, some with a number that is taken, some that are none."""

import asyncio
import random
from dataclasses import dataclass

from tests.chaos.load_http import Client, Load
from tests.chaos.load_kafka import Sender, task_body

_PATH = "/api/integration_service"
_PHONES = 150
_OF_A_SENDER = 1_000_000


@dataclass(frozen=True)
class _Sent:
    task_id: int
    body: bytes


async def tasks(load: Load, number: int) -> None:
    chance = load.chance(f"tasks {number}")
    topic = load.world.settings.kafka_import_topic
    sent: list[_Sent] = []
    count = 0
    async with Client(load, chance) as client, Sender(load, chance) as sender:

        async def by_http(op_id: str, kind: str, body: bytes) -> None:
            await client.insist(op_id, kind, _PATH, body, Prefer=f"wait={chance.choice((0, 0, 1))}")

        async def by_kafka(op_id: str, kind: str, body: bytes) -> None:
            await sender.insist(op_id, kind, topic, body, key=op_id.encode())

        while not load.stop.is_set():
            count += 1
            task_id = number * _OF_A_SENDER + count
            op_id, body = f"task-{task_id}", task_body(task_id, *_question(load, chance, task_id))
            send = chance.choice((by_http, by_kafka))
            draw = chance.random()
            if draw < 0.05:
                await send(op_id, "task-invalid", task_body(task_id, "fax", load.canary))
            elif draw < 0.1 and sent:
                taken = chance.choice(sent).task_id
                await send(f"task-{taken}", "task-reused", task_body(taken, "phone", f"8999{task_id % 10**7:07}"))
            elif draw < 0.25 and sent:
                again = chance.choice(sent)
                await send(f"task-{again.task_id}", "task", again.body)
            elif draw < 0.35:
                async with asyncio.TaskGroup() as group:
                    group.create_task(by_http(op_id, "task", body))
                    group.create_task(by_kafka(op_id, "task", body))
                sent.append(_Sent(task_id, body))
            else:
                await send(op_id, "task", body)
                # Only a task that is known to be in can be told from another one of its number.
                if send is by_http:
                    sent.append(_Sent(task_id, body))
            await asyncio.sleep(chance.uniform(0.2, 0.7))


def _question(load: Load, chance: random.Random, task_id: int) -> tuple[str, str]:
    draw = chance.random()
    if draw < 0.65:
        return "phone", f"8916{chance.randrange(_PHONES):07}"
    if draw < 0.9:
        return "email", f"{load.canary}.{chance.randrange(_PHONES)}@example.com"
    return "gpt", f"{load.canary} {task_id}: why?"
