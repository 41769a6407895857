"""Both fakes at one address: their paths differ."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import ValidationError

from app.fakes import dadata as dadata_service
from app.fakes import yandexgpt as yandexgpt_service
from app.fakes.http import Request, Response, listen
from app.fakes.script import Instructions, Script
from app.fakes.yandexgpt import Operations

CONTROL_PATH = "/fakes"
_NOT_FOUND = Response(404, b'{"error":"not found"}')


@dataclass
class Fakes:
    """The two fakes. `GET /fakes` tells their counters, `POST /fakes/NAME` takes instructions."""

    dadata: Script = field(default_factory=Script)
    yandexgpt: Script = field(default_factory=Script)
    operations: Operations = field(default_factory=Operations)

    async def answer(self, request: Request) -> Response:
        """Answer as the service whose path it is."""
        if request.path == CONTROL_PATH or request.path.startswith(CONTROL_PATH + "/"):
            return self._control(request)
        if request.path.startswith(dadata_service.PATH):
            async with self.dadata.request():
                return await dadata_service.answer(self.dadata, request)
        if request.path.startswith((yandexgpt_service.PATH, yandexgpt_service.OPERATIONS_PATH)):
            async with self.yandexgpt.request():
                return await yandexgpt_service.answer(self.yandexgpt, self.operations, request)
        return _NOT_FOUND

    def _control(self, request: Request) -> Response:
        scripts = {"dadata": self.dadata, "yandexgpt": self.yandexgpt}
        script = scripts.get(request.path.removeprefix(CONTROL_PATH).strip("/"))
        if script is not None and request.method == "POST":
            try:
                script.follow(Instructions.model_validate_json(request.body))
            except ValidationError:
                return Response(422, b'{"error":"these are no instructions"}')
        return Response(200, json.dumps({name: each.state() for name, each in scripts.items()}).encode())


@asynccontextmanager
async def serve(fakes: Fakes, listener: socket.socket) -> AsyncIterator[None]:
    """Answer at `listener` until the end of the block."""
    async with listen(fakes.answer, listener):
        yield
