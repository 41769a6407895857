"""The clients of Dadata and YandexGPT on the wire, against servers that answer anything."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from app.fakes.http import Drop, Request, Response, listen
from app.settings import Settings, load
from app.tasks.outcomes import Answered, Blocked, Busy, Failed, Outcome, Question, Refused, Running, Unknown
from app.tasks.providers import connect_all

KEYS = {
    "dadata_api_key": "dadata-key",
    "dadata_secret_key": "dadata-secret",
    "yandex_api_key": "yandex-key",
    "yandex_folder_id": "b1g",
}
PHONE, GPT = Question("phone", "+7 916 123-45-67"), Question("gpt", "Why?")
OPERATION = Question("gpt", "Why?", "op1")


@dataclass
class Server:
    url: str
    status: int = 200
    body: bytes = b"[]"
    headers: tuple[tuple[str, str], ...] = ()
    requests: list[Request] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        self.requests.append(request)
        if self.status == 0:
            raise Drop
        return Response(self.status, self.body, self.headers)

    def settings(self, **overrides: object) -> Settings:
        urls = {
            "dadata_url": self.url + "/api/v1",
            "yandexgpt_url": self.url + "/v1",
            "yandexgpt_operations_url": self.url + "/operations",
        }
        return load(_env_file=None, **(urls | KEYS | overrides))

    async def ask(self, question: Question, **overrides: object) -> Outcome:
        async with connect_all(self.settings(**overrides)) as providers:
            return await providers["yandexgpt" if question.task_type == "gpt" else "dadata"].ask(question)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}")
        async with listen(server.answer, listener):
            yield server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def yandex_error(grpc_code: int, status: int, message: str) -> bytes:
    error = {"grpcCode": grpc_code, "httpCode": status, "message": message, "httpStatus": "", "details": []}
    return json.dumps({"error": error}).encode()


async def test_dadata_gets_one_string_in_an_array_with_both_keys(server: Server) -> None:
    server.body = json.dumps([{"source": "раб 846)231.60.14 *139", "phone": None, "qc": 1}]).encode()
    outcome = await server.ask(Question("phone", "раб 846)231.60.14 *139"))
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/api/v1/clean/phone")
    assert json.loads(request.body) == ["раб 846)231.60.14 *139"]
    assert request.headers["authorization"] == "Token dadata-key"
    assert request.headers["x-secret"] == "dadata-secret"
    assert request.headers["content-type"] == "application/json"
    assert outcome == Answered({"source": "раб 846)231.60.14 *139", "phone": None, "qc": 1})


async def test_a_qc_that_nobody_knows_is_an_answer(server: Server) -> None:
    server.body = b'[{"source": "x", "qc": 99, "new": {"deep": [1]}}]'
    assert await server.ask(PHONE) == Answered({"source": "x", "qc": 99, "new": {"deep": [1]}})


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (400, Refused("HTTP_400")),
        (401, Blocked("HTTP_401")),
        (402, Blocked("HTTP_402")),
        (403, Blocked("HTTP_403")),
        (404, Blocked("HTTP_404")),
        (302, Blocked("HTTP_302")),
        (405, Refused("HTTP_405")),
        (413, Refused("HTTP_413")),
        (429, Busy("HTTP_429", timedelta(seconds=1))),
        (500, Failed("HTTP_500")),
        (503, Failed("HTTP_503")),
        (0, Unknown("RemoteProtocolError")),
    ],
)
async def test_what_dadatas_statuses_mean(server: Server, status: int, ending: Outcome) -> None:
    server.status, server.body = status, b'{"reason":"Forbidden","message":"token dadata-key"}'
    server.headers = (("location", server.url + "/elsewhere"),) if status == 302 else ()
    assert await server.ask(PHONE) == ending
    assert len(server.requests) == 1  # no redirect was followed, nothing was sent twice


async def test_nothing_was_sent_where_nobody_listens() -> None:
    settings = load(_env_file=None, fakes_url="http://127.0.0.1:1")
    async with connect_all(settings) as providers:
        assert await providers["dadata"].ask(PHONE) == Failed("ConnectError")
        assert await providers["yandexgpt"].ask(GPT) == Failed("ConnectError")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"<html>",
        b"",
        b'[{"phone": 1}]',
        b'[{"qc": 1}, {"qc": 2}]',
        b'[{"qc": 1, "qc": 2}]',
        b'[{"qc": 0, "city": "\\u0000"}]',
        b'[{"qc": 0, "city": "\\ud800"}]',
        b'[{"qc": NaN}]',
        b"[" * 5000,
        b'[{"qc": 0, "city": "' + b"x" * 2_000_000 + b'"}]',
    ],
    ids=range(12),
)
async def test_an_answer_that_cannot_be_stored_is_unknown(server: Server, body: bytes) -> None:
    server.body = body
    assert isinstance(await server.ask(PHONE), Unknown)


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3), ("0", 1), ("99999999", 3600), ("soon", 1), ("-1", 1), ("1" * 500, 1)]
)
async def test_retry_after_in_seconds(server: Server, header: str, seconds: float) -> None:
    server.status, server.headers = 429, (("retry-after", header),)
    assert await server.ask(PHONE) == Busy("HTTP_429", timedelta(seconds=seconds))


async def test_retry_after_as_a_date(server: Server) -> None:
    moment = datetime.now(UTC) + timedelta(minutes=5)
    server.status, server.headers = 503, (("retry-after", format_datetime(moment, usegmt=True)),)
    outcome = await server.ask(PHONE)
    assert isinstance(outcome, Failed)
    assert outcome.retry_after is not None
    assert timedelta(minutes=4) < outcome.retry_after <= timedelta(minutes=5)


async def test_yandexgpt_gets_the_prompt_and_keeps_nothing_of_it(server: Server) -> None:
    completion = {
        "alternatives": [{"message": {"role": "assistant", "text": "Because."}, "status": "ALTERNATIVE_STATUS_FINAL"}],
        "usage": {"inputTextTokens": "2", "completionTokens": "3", "totalTokens": "5"},
        "modelVersion": "1",
    }
    server.body = json.dumps({"result": completion}).encode()
    assert await server.ask(GPT, yandexgpt_system_prompt="Be brief.") == Answered(completion, tokens=5)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/completion")
    assert request.headers["authorization"] == "Api-Key yandex-key"
    assert request.headers["x-data-logging-enabled"] == "false"
    assert "x-folder-id" not in request.headers
    assert json.loads(request.body) == {
        "modelUri": "gpt://b1g/yandexgpt-lite/latest",
        "completionOptions": {"stream": False, "temperature": 0.3, "maxTokens": "2000"},
        "messages": [{"role": "system", "text": "Be brief."}, {"role": "user", "text": "Why?"}],
    }
    server.body = json.dumps(completion).encode()  # as the newer reference shows it
    assert await server.ask(GPT) == Answered(completion, tokens=5)


async def test_a_token_needs_the_folder_beside_it(server: Server) -> None:
    await server.ask(GPT, yandex_api_key=None, yandex_iam_token="t1.token")
    assert server.requests[0].headers["authorization"] == "Bearer t1.token"
    assert server.requests[0].headers["x-folder-id"] == "b1g"


@pytest.mark.parametrize(
    ("grpc_code", "status", "message", "ending"),
    [
        (3, 400, "text is empty", Refused("GRPC_3")),
        (3, 400, "Specified folder ID 'x' does not match with service account folder ID 'y'", Blocked("FOLDER")),
        (16, 401, "Unknown api key 'yandex-key'", Blocked("GRPC_16")),
        (7, 403, "", Blocked("GRPC_7")),
        (5, 404, "model not found", Blocked("GRPC_5")),
        (13, 500, "", Failed("GRPC_13")),
        (14, 503, "", Failed("GRPC_14")),
        (4, 504, "", Failed("GRPC_4")),
        (
            8,
            429,
            "ai.textGenerationCompletionRequestsPerHour.rate rate quota limit exceed: allowed 100 requests",
            Busy("RATE_QUOTA", timedelta(minutes=2)),
        ),
    ],
)
async def test_what_yandexgpts_errors_mean(
    server: Server, grpc_code: int, status: int, message: str, ending: Outcome
) -> None:
    server.status, server.body = status, yandex_error(grpc_code, status, message)
    for mode in ("sync", "async"):
        assert await server.ask(GPT, yandexgpt_mode=mode) == ending


async def test_a_quota_of_answers_under_way_is_free_again_in_a_moment(server: Server) -> None:
    message = "ai.textGenerationCompletionSessionsCount.count gauge quota limit exceed: allowed 10 requests"
    server.status, server.body = 429, yandex_error(8, 429, message)
    outcome = await server.ask(GPT)
    assert isinstance(outcome, Busy)
    assert timedelta(seconds=0.5) <= outcome.retry_after <= timedelta(seconds=2)


@pytest.mark.parametrize("body", [b'{"error":"nope"}', b"gateway", b'{"error":{"message":7,"grpcCode":"x"}}'])
async def test_errors_of_gateways_go_by_their_status(server: Server, body: bytes) -> None:
    server.status, server.body = 502, body
    assert await server.ask(GPT) == Failed("HTTP_502")


async def test_an_operation_that_failed_has_to_be_started_again(server: Server) -> None:
    server.body = b'{"id":"op1","done":true,"error":{"code":13,"message":"internal","details":[]}}'
    assert await server.ask(OPERATION) == Failed("GRPC_13")
    server.body = b'{"id":"op1","done":false,"error":{"code":3,"message":"bad","details":[]}}'
    assert await server.ask(OPERATION) == Refused("GRPC_3")


@pytest.mark.parametrize("status", [500, 503, 0])
async def test_trouble_on_the_way_to_an_operation_leaves_it_alone(server: Server, status: int) -> None:
    server.status = status
    outcome = await server.ask(OPERATION)
    assert isinstance(outcome, Failed)
    assert outcome.operation_id == "op1"
    server.status = 401
    assert await server.ask(OPERATION) == Blocked("HTTP_401", "op1")


async def test_an_operation_that_is_gone_was_paid_for(server: Server) -> None:
    server.status, server.body = 404, yandex_error(5, 404, "operation not found")
    assert await server.ask(OPERATION) == Unknown("OPERATION_GONE")


@pytest.mark.parametrize("name", ["../../v1/completion", "a b", "", "x" * 101])
async def test_an_id_of_an_operation_that_is_none_is_never_asked_for(server: Server, name: str) -> None:
    server.body = json.dumps({"id": name, "done": False}).encode()
    assert await server.ask(GPT, yandexgpt_mode="async") == Unknown("UNREADABLE_ANSWER")


async def test_an_answer_under_way_is_asked_about_where_operations_are(server: Server) -> None:
    server.body = b'{"id":"op1","done":false}'
    assert await server.ask(OPERATION) == Running("op1")
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/operations/op1")


async def test_without_keys_the_fakes_are_asked_and_with_keys_the_real_ones() -> None:
    from app.tasks.providers import dadata, yandexgpt

    fakes = load(_env_file=None, fakes_url="http://fakes:1")
    assert dadata.locate(fakes) == ("http://fakes:1/api/v1", True)
    assert yandexgpt.locate(fakes) == ("http://fakes:1/foundationModels/v1", "http://fakes:1/operations", True)
    real = load(_env_file=None, **KEYS)
    assert dadata.locate(real) == ("https://cleaner.dadata.ru/api/v1", False)
    assert yandexgpt.locate(real) == (
        "https://llm.api.cloud.yandex.net/foundationModels/v1",
        "https://operation.api.cloud.yandex.net/operations",
        False,
    )
