"""What the API answers without its database: problems, headers, metrics, documentation."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.exceptions import HTTPException

from app import trace
from app.api.kinds import KINDS
from app.api.problems import MEDIA_TYPE
from app.errors import BrokerUnavailable, Conflict, InvalidMessage
from tests.api import NOWHERE, Api, api_on

_SECRET = "4111-1111-1111-1111"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with api_on(NOWHERE) as api:
        yield api


def _raises(app: FastAPI, error: Exception) -> None:
    @app.get("/raises")
    async def raises() -> None:
        raise error


@pytest.mark.parametrize("path", ["/nope", "/applications/1/2", "/static/nope", "/static/../x", "/problems/x", "//"])
async def test_unknown_path(api: Api, path: str) -> None:
    response = await api.client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.json()["type"] == "/problems/not-found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/applications", "GET, POST"),
        ("DELETE", "/api/v1/applications/", "GET, POST"),
        ("OPTIONS", "/applications/1", "GET"),
        ("POST", "/livez", "GET"),
    ],
)
async def test_wrong_method_says_which_are_right(api: Api, method: str, path: str, allow: str) -> None:
    response = await api.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    assert response.json()["type"] == "/problems/method-not-allowed"


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (Conflict("it is already decided"), 409, "it is already decided"),
        (InvalidMessage("too large"), 422, "too large"),
        (BrokerUnavailable("no broker", retry_after=timedelta(seconds=2.1)), 503, "no broker"),
    ],
)
async def test_our_own_errors_say_what_is_wrong(api: Api, error: Exception, status: int, detail: str) -> None:
    _raises(api.app, error)
    response = await api.client.get("/raises")
    assert (response.status_code, response.json()["detail"]) == (status, detail)
    assert response.headers.get("retry-after") == ("3" if status == 503 else None)


async def test_an_unexpected_error_shows_nothing_but_a_reference(api: Api) -> None:
    _raises(api.app, RuntimeError(f"could not charge {_SECRET}"))
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        response = await api.client.get("/raises")
    problem = response.json()
    assert response.status_code == 500
    assert set(problem) == {"type", "title", "status", "reference"}
    (report,) = (entry for entry in logs if entry["event"] == "request.failed")
    assert report["request_id"] == problem["reference"] == response.headers["x-request-id"]
    assert report["error"] == "RuntimeError"
    assert any("test_api_problems.py" in place and "raises" in place for place in report["at"])
    assert _SECRET not in response.text + str(logs)


async def test_every_type_resolves(api: Api) -> None:
    for kind in KINDS.values():
        response = await api.client.get(kind.type)
        assert response.status_code == 200
        assert response.json()["title"] == kind.title


async def test_a_problem_of_the_framework_without_a_kind_of_ours(api: Api) -> None:
    _raises(api.app, HTTPException(418, _SECRET))
    response = await api.client.get("/raises")
    assert response.status_code == 418
    assert (response.json()["type"], response.json()["status"]) == ("about:blank", 418)
    assert _SECRET not in response.text


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("x" * 65, False), ("a b", False), ("é", False)])
async def test_request_id(api: Api, given: str, kept: bool) -> None:
    response = await api.client.get("/livez", headers={b"x-request-id": given.encode()})
    assert (response.headers["x-request-id"] == given) is kept
    assert len(response.headers["x-request-id"]) <= 64


async def test_the_trace_context_reaches_the_handler(api: Api) -> None:
    @api.app.get("/traced")
    async def traced() -> str | None:
        return trace.current.get()

    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert (await api.client.get("/traced", headers={"traceparent": given})).json() == given
    made = (await api.client.get("/traced", headers={"traceparent": "00-garbage"})).json()
    assert made != given
    assert trace.accept(made) == made
    assert trace.current.get() is None


async def test_headers_of_every_answer(api: Api) -> None:
    for path in ("/livez", "/nope", "/applications", "/docs", "/openapi.json"):
        headers = (await api.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
    assert (await api.client.get("/static/swagger-ui.css")).headers["cache-control"] == "no-cache"


async def test_the_log_line_has_the_template_and_no_query(api: Api) -> None:
    with structlog.testing.capture_logs() as logs:
        await api.client.get("/applications/0?card=" + _SECRET)
    (line,) = (entry for entry in logs if entry["event"] == "request")
    assert (line["method"], line["route"], line["status"]) == ("GET", "/applications/{id}", 422)
    assert _SECRET not in str(logs)


async def test_requests_are_measured_by_template(api: Api) -> None:
    def count(route: str, status: str) -> float:
        labels = {"method": "GET", "route": route, "status": status}
        return REGISTRY.get_sample_value("http_server_request_duration_seconds_count", labels) or 0

    before, lost = count("/applications/{id}", "422"), count("-", "404")
    await api.client.get("/applications/0")
    await api.client.get("/api/v1/applications/0/")
    await api.client.get("/" + _SECRET)
    assert count("/applications/{id}", "422") == before + 2
    assert count("-", "404") == lost + 1
    metrics = await api.client.get("/metrics")
    assert metrics.status_code == 200
    assert "http_server_request_duration_seconds_bucket" in metrics.text
    assert _SECRET not in metrics.text


async def test_the_documentation_comes_from_here(api: Api) -> None:
    page = await api.client.get("/docs/")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f'"/static/{asset}"' in page.text
        assert (await api.client.get(f"/static/{asset}")).status_code == 200


async def test_openapi_is_complete(api: Api) -> None:
    document = (await api.client.get("/openapi.json")).json()
    domains = {"/applications", "/applications/{id}", "/users", "/users/{id}"}
    tasks = "/api/integration_service"
    domains |= {tasks, f"{tasks}/{{result_id}}", f"{tasks}/tasks", f"{tasks}/tasks/{{task_id}}"}
    assert set(document["paths"]) == domains | {"/messages/{message_id}", "/livez", "/readyz", "/metrics"}
    for reference in _references(document):
        assert _resolve(document, reference), reference
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "4":
                    assert list(response["content"]) == [MEDIA_TYPE]
    assert {"400", "413", "415", "422", "503"} < set(document["paths"]["/applications"]["post"]["responses"])
    assert "404" in document["paths"]["/applications/{id}"]["get"]["responses"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in _references(item)]
    if isinstance(node, dict):
        return [node["$ref"]] if "$ref" in node else _references(list(node.values()))
    return []


def _resolve(document: Any, reference: str) -> Any:
    for name in reference.removeprefix("#/").split("/"):
        document = document.get(name, {})
    return document


async def test_alive_whatever_the_database_does(api: Api) -> None:
    assert (await api.client.get("/livez")).json() == {"status": "alive"}
    not_ready = await api.client.get("/readyz")
    assert not_ready.status_code == 503
    assert not_ready.headers["content-type"] == MEDIA_TYPE
    assert {name: state["ready"] for name, state in not_ready.json()["checks"].items()} == {
        "database": False,
        "migrations": False,
    }


async def test_limits_of_the_settings_are_documented_and_hold() -> None:
    async with api_on(NOWHERE, user_name_max_length=3, description_max_length=4, page_size_max=5) as api:
        schemas = (await api.client.get("/openapi.json")).json()["components"]["schemas"]
        properties = schemas["NewApplication"]["properties"]
        assert (properties["user_name"]["maxLength"], properties["description"]["maxLength"]) == (3, 4)
        response = await api.apply("Anna", "short")
        assert {error["field"] for error in response.json()["errors"]} == {"user_name", "description"}
        assert (await api.client.get("/applications?size=6")).status_code == 422
        assert json.loads(response.content)["status"] == 422
