"""What people sent stays in the tables and in the answers: not in logs, metrics, errors, messages."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import generate_latest

from app import log
from app.fakes.script import Fault
from app.settings import load
from app.tasks import measures
from app.tasks.providers import connect_all
from tests.api import api_on
from tests.providing import serving_fakes
from tests.tasking import running, tasks_on

PHONE, EMAIL, PROMPT, KEY = "8 916 555-73-19", "canary-4711@example.com", "canary prompt 8812", "canary-key-0815"
CANARIES = (PHONE, "555-73", "canary")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that is logged, down to the finest, by us and by libraries."""
    root = logging.getLogger()
    handlers, level, config = root.handlers, root.level, structlog.get_config()
    stream = io.StringIO()
    log.configure(load(_env_file=None, log_level="debug", log_format="json"), stream)
    yield stream
    structlog.configure(**config)
    root.handlers = handlers
    root.setLevel(level)


async def test_no_canary_leaves(database_url: str, written: io.StringIO) -> None:
    keys = {"dadata_api_key": KEY, "dadata_secret_key": KEY, "yandex_api_key": KEY}
    bodies = [
        {"task_id": number, "task_type": kind, "data": f"{text} {number}"}
        for number, (kind, text) in enumerate([("phone", PHONE), ("email", EMAIL), ("gpt", PROMPT)] * 3)
    ]
    answers: list[str] = []
    async with serving_fakes() as served, tasks_on(database_url) as tasks, api_on(database_url, task_wait=20) as api:
        urls = {
            "dadata_url": f"{served.url}/api/v1",
            "yandexgpt_url": f"{served.url}/foundationModels/v1",
            "yandexgpt_operations_url": f"{served.url}/operations",
        }
        settings = load(_env_file=None, **{**tasks.settings.model_dump(exclude_unset=True), **keys, **urls})
        for script in (served.fakes.dadata, served.fakes.yandexgpt):
            script.faults.extend(
                [
                    Fault(status=400, message=PROMPT),
                    Fault(status=500, message=PHONE),
                    Fault(status=401, message=EMAIL),
                    Fault(billed=True),
                    Fault(status=429, message=KEY, retry_after="0"),
                    Fault(answer=f'{{"{PHONE}": ', billed=True),
                ]
            )
        async with connect_all(settings) as providers, running(settings, providers):
            for body in bodies:
                answers.append((await api.client.post("/api/integration_service", json=body)).text)
                answers.append((await api.client.post("/api/integration_service", json=body | {"task_type": 1})).text)
                answers.append((await api.client.post("/api/integration_service", json=body | {"data": PHONE})).text)
                answers.append((await api.client.get(f"/api/integration_service/tasks/{body['task_id']}")).text)
        async with tasks.sessions() as session:
            await measures.measure(session, settings)
        messages = [*await tasks.messages("integration.results"), *await tasks.messages("integration.errors")]
        errors = await tasks.query("SELECT error FROM integration_tasks UNION SELECT code FROM integration_attempts")
    assert served.fakes.dadata.billed > 3
    assert json.loads(messages[0])
    said = "\n".join(
        [*answers, *messages, *(str(row) for row in errors), written.getvalue(), generate_latest().decode()]
    )
    assert "provider.refused" in said
    assert [canary for canary in CANARIES if canary in said] == []
