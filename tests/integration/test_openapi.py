"""What the OpenAPI document says is so: its examples are sent, and schemathesis tries the rest."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for

from tests.api import Api, api_on
from tests.api_process import api_process

_SWITCHED_OFF = {
    # The header Allow names the methods of all routes of a path, as RFC 9110 wants it; the check looks at one route.
    "unsupported_method": "OPTIONS is answered with 405 and Allow, not with 200",
    # Keys are optional: without API_KEYS everybody is let in, whatever key comes along.
    # A schema cannot say that a key is spent on one body, that `after` excludes `page`, and how far pages reach.
    "positive_data_acceptance": "refused with 422, on purpose",
    "ignored_auth": "no keys are configured in this run",
}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with api_on(database_url) as api:
        yield api


async def _document(api: Api) -> Any:
    return (await api.client.get("/openapi.json")).json()


def _validate(document: Any, schema: Any, instance: Any) -> None:
    validator_for({**schema, "components": document["components"]}).validate(instance)


async def test_each_example_of_a_body_is_accepted_and_the_answer_is_as_described(api: Api) -> None:
    document, sent = await _document(api), 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" not in operation:
                continue
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            for example in document["components"]["schemas"][reference.rpartition("/")[2]]["examples"]:
                response = await api.client.request(method, path, json=example)
                sent += 1
                assert response.is_success, response.text
                described = operation["responses"][str(response.status_code)]
                _validate(document, described["content"]["application/json"]["schema"], response.json())
                for name, header in described["headers"].items():
                    assert name in response.headers or "const" in header["schema"], name
                read = await api.client.get(response.headers["location"])
                assert response.json().items() <= read.json().items()
    assert sent


async def test_each_example_of_a_parameter_is_accepted(api: Api) -> None:
    await api.apply()
    document, sent = await _document(api), 0
    for path, operations in document["paths"].items():
        operation = operations.get("get", {})
        for parameter in operation.get("parameters", []):
            schemas = [parameter["schema"], *parameter["schema"].get("anyOf", [])]
            for example in (each for schema in schemas for each in schema.get("examples", [])):
                sent += 1
                match parameter["in"]:
                    case "path":
                        response = await api.client.get(path.replace("{" + parameter["name"] + "}", str(example)))
                    case "query":
                        response = await api.client.get(path, params={parameter["name"]: example})
                    case _:
                        continue
                if parameter["in"] == "path" and response.status_code == 404:
                    continue  # understood, and not there
                assert response.status_code == 200, response.text
                content = operation["responses"]["200"]["content"]["application/json"]
                _validate(document, content["schema"], response.json())
    assert sent


async def test_a_message_is_as_described(api: Api) -> None:
    message_id = (await api.apply()).headers["outbox-message-id"]
    document = await _document(api)
    content = document["paths"]["/messages/{message_id}"]["get"]["responses"]["200"]["content"]["application/json"]
    _validate(document, content["schema"], (await api.client.get(f"/messages/{message_id}")).json())


@pytest.mark.slow
async def test_schemathesis_finds_nothing(database_url: str, tmp_path: Path) -> None:
    async with api_process(database_url, task_wait="0.01") as process:  # nobody runs the tasks
        run = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{process.url}/openapi.json"),
            *("--checks", "all", "--exclude-checks", ",".join(_SWITCHED_OFF)),
            *("--max-examples", "15", "--seed", "1", "--workers", "1", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()[-6000:]
