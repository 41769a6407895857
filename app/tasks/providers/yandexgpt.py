"""YandexGPT over its native REST API (Foundation Models v1), synchronous or as an operation. Billed a token."""

import random
import re
from datetime import timedelta
from typing import Any

import httpx2

from app.settings import Settings
from app.tasks.outcomes import Answered, Blocked, Busy, Failed, Outcome, Question, Refused, Running, Unknown
from app.tasks.providers.http import Exchange, Lost, NotSent, Reply, exchange

_REAL = "https://llm.api.cloud.yandex.net/foundationModels/v1"
_REAL_OPERATIONS = "https://operation.api.cloud.yandex.net/operations"
_FAKE_PATH, _FAKE_OPERATIONS_PATH = "/foundationModels/v1", "/operations"

_SUBMIT_DEADLINE = timedelta(seconds=10)
_POLL_DEADLINE = timedelta(seconds=5)
# Of the two kinds of quota one is of answers under way, free again in a moment, the other of requests an hour.
_RATE_PAUSE = timedelta(minutes=2)
_UNREADABLE = "UNREADABLE_ANSWER"
_OPERATION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

# google.rpc.Code, where HTTP's statuses do not say the same.
_INVALID_ARGUMENT, _NOT_FOUND, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _UNAUTHENTICATED = 3, 5, 7, 8, 16
_AS_STATUS = {
    _INVALID_ARGUMENT: 400,
    _NOT_FOUND: 404,
    _PERMISSION_DENIED: 403,
    _RESOURCE_EXHAUSTED: 429,
    _UNAUTHENTICATED: 401,
}


class YandexGpt:
    """The provider of tasks `gpt`."""

    def __init__(self, client: httpx2.AsyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._url, self._operations_url, self.is_fake = locate(settings)
        # Prompts may hold personal data; without this header they are kept.
        self._headers = {"x-data-logging-enabled": "false"}
        if settings.yandex_api_key and not self.is_fake:
            self._headers["authorization"] = f"Api-Key {settings.yandex_api_key.get_secret_value()}"
        elif settings.yandex_iam_token and not self.is_fake:
            self._headers["authorization"] = f"Bearer {settings.yandex_iam_token.get_secret_value()}"
            self._headers["x-folder-id"] = settings.yandex_folder_id

    async def ask(self, question: Question) -> Outcome:
        """Complete one prompt, or start to, or ask how far that is."""
        if question.operation_id is not None:
            reply = await self._send("GET", f"{self._operations_url}/{question.operation_id}", None, _POLL_DEADLINE)
            return _of_operation(reply, question.operation_id)
        prompt = self._prompt(question.text)
        if self._settings.yandexgpt_mode == "async":
            return _of_start(await self._send("POST", f"{self._url}/completionAsync", prompt, _SUBMIT_DEADLINE))
        deadline = self._settings.yandexgpt_timeout
        return _of_completion(await self._send("POST", f"{self._url}/completion", prompt, deadline))

    async def _send(self, method: str, url: str, content: object, deadline: timedelta) -> Exchange:
        return await exchange(self._client, method, url, headers=self._headers, content=content, deadline=deadline)

    def _prompt(self, text: str) -> dict[str, Any]:
        settings = self._settings
        messages = [{"role": "user", "text": text}]
        if settings.yandexgpt_system_prompt:
            messages.insert(0, {"role": "system", "text": settings.yandexgpt_system_prompt})
        return {
            "modelUri": f"gpt://{settings.yandex_folder_id or 'folder'}/{settings.yandexgpt_model}",
            "completionOptions": {
                "stream": False,
                "temperature": settings.yandexgpt_temperature,
                "maxTokens": str(settings.yandexgpt_max_tokens),  # int64 is a string in proto3's JSON
            },
            "messages": messages,
        }


def locate(settings: Settings) -> tuple[str, str, bool]:
    """Where completions and operations of YandexGPT are, and whether that is the fake."""
    has_key = settings.yandex_api_key is not None or settings.yandex_iam_token is not None
    is_fake = settings.yandexgpt_url is None and not has_key
    fakes = str(settings.fakes_url).rstrip("/")
    default, operations = (fakes + _FAKE_PATH, fakes + _FAKE_OPERATIONS_PATH) if is_fake else (_REAL, _REAL_OPERATIONS)
    return (
        str(settings.yandexgpt_url or default).rstrip("/"),
        str(settings.yandexgpt_operations_url or operations).rstrip("/"),
        is_fake,
    )


def _of_completion(result: Exchange) -> Outcome:
    match result:
        case NotSent(code):
            return Failed(code)
        case Lost(code):
            return Unknown(code)
        case Reply(status=200, body={"result": body} | body):
            return _completion(body)
        case Reply(status, body):
            return _refusal(status, body, result.retry_after)


def _of_start(result: Exchange) -> Outcome:
    match result:
        case NotSent(code):
            return Failed(code)
        case Lost(code):
            return Unknown(code)
        case Reply(status=200, body={"id": str(operation_id)}) if _OPERATION_ID.fullmatch(operation_id):
            return Running(operation_id)
        case Reply(status=200):
            return Unknown(_UNREADABLE)
        case Reply(status, body):
            return _refusal(status, body, result.retry_after)


def _of_operation(result: Exchange, operation_id: str) -> Outcome:
    """How an operation goes. Nothing that goes wrong on the way to it harms it."""
    match result:
        case NotSent(code) | Lost(code):
            return Failed(code, operation_id=operation_id)
        case Reply(status=200, body={"id": _} as operation):
            return _state(operation, operation_id)
        case Reply(status=404):
            return Unknown("OPERATION_GONE")  # results are kept for three days
        case Reply(status, body):
            match _refusal(status, body, result.retry_after):
                case Busy(code, retry_after):
                    return Busy(code, retry_after, operation_id)
                case Blocked(code):
                    return Blocked(code, operation_id)
    return Failed(f"HTTP_{result.status}", result.retry_after, operation_id)


def _state(operation: dict[str, Any], operation_id: str) -> Outcome:
    match operation:
        case {"error": dict()}:
            return _refusal(500, operation, None)
        case {"done": True, "response": dict(response)}:
            return _completion({name: value for name, value in response.items() if name != "@type"})
        case _:
            return Running(operation_id)


def _completion(body: Any) -> Outcome:
    """An answer, also one that was cut off or filtered: those are billed, and say so in their `status`."""
    match body:
        case {"alternatives": [{"message": dict()}, *_]}:
            tokens = str(body.get("usage", {}).get("totalTokens", 0)) if isinstance(body.get("usage"), dict) else "0"
            return Answered(body, tokens=int(tokens) if re.fullmatch(r"[0-9]{1,9}", tokens) else 0)
    return Unknown(_UNREADABLE)


def _refusal(status: int, body: Any, retry_after: timedelta | None) -> Outcome:
    """What an error means. Its text tells kinds apart, and is not kept."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": error}
    grpc_code = error.get("grpcCode", error.get("code"))
    message = str(error.get("message", ""))
    code = f"GRPC_{grpc_code}" if isinstance(grpc_code, int) else f"HTTP_{status}"
    match _AS_STATUS.get(grpc_code, status) if isinstance(grpc_code, int) else status:
        case 400 if "folder" in message.lower():
            return Blocked("FOLDER")
        case 400 | 405 | 413 | 422:
            return Refused(code)
        case 429 if ".rate" in message:
            return Busy("RATE_QUOTA", retry_after or _RATE_PAUSE)
        case 429:
            return Busy("COUNT_QUOTA", retry_after or timedelta(seconds=random.uniform(0.5, 2)))  # noqa: S311 - no secret
        case number if number >= 500:  # noqa: PLR2004 - the class of HTTP's statuses
            return Failed(code, retry_after)
    # 401 a wrong key, 403 no rights or no money, 404 an unknown model.
    return Blocked(code)
