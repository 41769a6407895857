"""Clients over HTTP that keep on: what is not known is tried again, with the same key."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Self

import httpx2

from tests.chaos.history import History, Outcome
from tests.chaos.world import World

_TIMEOUT = 5.0


@dataclass
class Load:
    """What all who send have in common. `canary` is a word that stands in personal data only."""

    world: World
    history: History
    stop: asyncio.Event
    canary: str
    seed: int

    def chance(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")


async def applications(load: Load, number: int) -> None:
    """A client that applies again and again; some of it is refused, and some is sent again under its key."""
    chance = load.chance(f"applications {number}")
    done: list[tuple[str, bytes, str]] = []
    async with Client(load, chance) as client:
        count = 0
        while not load.stop.is_set():
            count += 1
            await _apply(client, load.canary, f"app-{number}-{count}", done)
            await asyncio.sleep(chance.uniform(0.2, 0.8))


async def _apply(client: "Client", canary: str, op_id: str, done: list[tuple[str, bytes, str]]) -> None:
    draw = client.chance.random()
    kind, key = "apply", f"key-{op_id}"
    body = json.dumps({"user_name": f"Анна {canary}", "description": f"{op_id}: please connect the flat"}).encode()
    if draw < 0.06:
        kind, body = "apply-invalid", json.dumps({"user_name": "", "description": op_id}).encode()
    elif draw < 0.12 and done:
        kind, key = "apply-reused", client.chance.choice(done)[2]
    elif draw < 0.2 and done:
        kind = "apply-again"
        op_id, body, key = client.chance.choice(done)
    number = await client.insist(op_id, kind, "/applications", body, key=key)
    if kind == "apply" and number is not None:
        done.append((op_id, body, key))


class Client:
    """Sends a request until there is an answer that says what came of it."""

    def __init__(self, load: Load, chance: random.Random) -> None:
        self._load = load
        self.chance = chance
        self._http = httpx2.AsyncClient(timeout=_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def insist(
        self, op_id: str, kind: str, path: str, body: bytes, *, key: str | None = None, **headers: str
    ) -> str | None:
        """The id that the answer names, if it names one."""
        headers = {"Content-Type": "application/json", **headers}
        if key is not None:
            headers["Idempotency-Key"] = key
        while True:
            api = self.chance.choice(self._load.world.of("api"))
            began = time.time()
            outcome: Outcome = "info"
            status, number, note = None, None, None
            try:
                response = await self._http.post(api.url + path, content=body, headers=headers)
                status = response.status_code
                outcome, number, note = _judge(response)
            except (httpx2.HTTPError, OSError) as error:
                note = type(error).__name__
            self._load.history.tried(op_id, kind, body, began, outcome, idem_key=key, http=status, id=number, note=note)
            if outcome != "info":
                return number
            await asyncio.sleep(self.chance.uniform(0.1, 0.8))


def _judge(response: httpx2.Response) -> tuple[Outcome, str | None, str | None]:
    try:
        content = response.json()
    except ValueError:
        return "info", None, "no JSON"
    if response.is_success:
        return "ok", str(content.get("id", content.get("task_id"))), response.headers.get("idempotency-replayed")
    kind = str(content.get("type", "")).rpartition("/")[2].rpartition("#")[2]
    if response.status_code == httpx2.codes.BAD_GATEWAY and "code" in content:
        return "ok", str(content.get("task_id")), str(content["code"])  # accepted, and its end is a failure
    if response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR or kind == "in-progress":
        return "info", None, kind
    return "fail", None, kind
