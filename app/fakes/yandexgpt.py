"""A fake of YandexGPT: its native REST API, its operations, its errors; and answers without any wit."""

import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from app.fakes.http import Drop, Request, Response
from app.fakes.script import Fault, Script

PATH, OPERATIONS_PATH = "/foundationModels/v1/", "/operations/"
_VERSION = "09.02.2025"
_GRPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14, 504: 4}
_CHARACTERS_A_TOKEN = 4


@dataclass
class Operations:
    """Operations started, each with its answer and the moment when that is ready."""

    ready: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    failing: Fault | None = None
    """How operations end, if not with an answer."""


async def answer(script: Script, operations: Operations, request: Request) -> Response:
    """Complete a prompt, start to, tell how an operation goes, or fail as told."""
    fault = script.next_fault()
    if request.path.startswith(OPERATIONS_PATH):
        operation_id = request.path.removeprefix(OPERATIONS_PATH)
        if operation_id not in operations.ready:
            return _error(404, "operation not found", ())
        reply = _operation(operations, operation_id)
    else:
        prompt = _prompt(request)
        if prompt is None:
            return _error(400, "text is empty", ())
        is_async = request.path == PATH + "completionAsync"
        if fault is None or fault.billed:
            script.bill(prompt)
        if is_async:
            reply = _start(operations, script, prompt)
        else:
            await script.take_time()
            reply = {"result": _completion(prompt)}
    if fault is None:
        return Response(200, json.dumps(reply, ensure_ascii=False).encode())
    if fault.answer is not None:
        return Response(fault.status or 200, fault.answer.encode())
    if fault.status == 0:
        raise Drop
    headers = () if fault.retry_after is None else (("retry-after", fault.retry_after),)
    return _error(fault.status, fault.message, headers)


def _prompt(request: Request) -> str | None:
    """The user's message, if the request is one that the real service takes."""
    try:
        match json.loads(request.body):
            case {"modelUri": str(uri), "messages": [*_, {"role": "user", "text": str(text)}]} if uri.startswith(
                "gpt://"
            ):
                return text or None
    except ValueError:
        pass
    return None


def _completion(prompt: str) -> dict[str, Any]:
    text = f"A fake answer to a prompt of {len(prompt)} characters."
    asked, said = max(1, len(prompt) // _CHARACTERS_A_TOKEN), len(text) // _CHARACTERS_A_TOKEN
    return {
        "alternatives": [{"message": {"role": "assistant", "text": text}, "status": "ALTERNATIVE_STATUS_FINAL"}],
        "usage": {
            "inputTextTokens": str(asked),
            "completionTokens": str(said),
            "totalTokens": str(asked + said),
            "completionTokensDetails": {"reasoningTokens": "0"},
        },
        "modelVersion": _VERSION,
    }


def _start(operations: Operations, script: Script, prompt: str) -> dict[str, Any]:
    operation_id = "fake" + uuid4().hex[:16]
    operations.ready[operation_id] = (time.monotonic() + script.delay.total_seconds(), _completion(prompt))
    return _described(operation_id, {"done": False})


def _operation(operations: Operations, operation_id: str) -> dict[str, Any]:
    """An operation as it stands. It can be asked for again and again, and that is not billed."""
    moment, completion = operations.ready[operation_id]
    if moment > time.monotonic():
        return _described(operation_id, {"done": False})
    if operations.failing is not None:
        code = _GRPC_CODES.get(operations.failing.status, 13)
        error = {"code": code, "message": operations.failing.message, "details": []}
        return _described(operation_id, {"done": True, "error": error})
    kind = {"@type": "type.googleapis.com/yandex.cloud.ai.foundation_models.v1.CompletionResponse"}
    return _described(operation_id, {"done": True, "response": kind | completion})


def _described(operation_id: str, state: dict[str, Any]) -> dict[str, Any]:
    return {"id": operation_id, "description": "Async GPT Completion", "createdBy": "fake", "metadata": None} | state


def _error(status: int, message: str, headers: tuple[tuple[str, str], ...]) -> Response:
    error = {
        "grpcCode": _GRPC_CODES.get(status, 13),
        "httpCode": status,
        "message": message,
        "httpStatus": "",
        "details": [],
    }
    return Response(status, json.dumps({"error": error}).encode(), headers)
