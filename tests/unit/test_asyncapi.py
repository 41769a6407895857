"""The document of the topics says what the code does, and the committed one is not stale."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from app import asyncapi
from app.kafka.dead_letter import dead_letter
from app.settings import Settings
from app.users.consumer import UsersHandler
from relay.outcomes import OwedMessage
from relay.publisher import record_headers
from tests.api import NOWHERE, api_on
from tests.command import outbox
from tests.consuming import record

ROOT = Path(__file__).resolve().parents[2]
_RELAYS = {"ce_specversion", "ce_id", "ce_type", "ce_time"}


def _document() -> dict[str, Any]:
    return asyncapi.document(Settings.model_construct())


def test_the_document_is_not_stale() -> None:
    committed = json.loads((ROOT / "docs" / "asyncapi.json").read_text(encoding="utf-8"))
    assert committed == _document(), "docs/asyncapi.json is stale: run `make docs`"


def test_the_command_prints_it() -> None:
    assert json.loads(outbox("topics", "asyncapi").stdout) == _document()


async def test_it_is_served_with_the_topics_of_the_settings() -> None:
    async with api_on(NOWHERE, users_requests_topic="asked") as api:
        served = (await api.client.get("/asyncapi.json")).json()
    assert served["channels"]["userRequests"]["address"] == "asked"


def test_all_references_resolve() -> None:
    document = _document()

    def check(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(check, node))
        if not isinstance(node, dict):
            return 0
        if "$ref" in node:
            target: Any = document
            for name in node["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            return 1
        return sum(map(check, node.values()))

    assert check(document) == 8 + 14 + 2


def _described(message: str) -> tuple[set[str], set[str]]:
    headers = _document()["components"]["messages"][message]["headers"]
    return set(headers.get("required", ())) - _RELAYS, set(headers["properties"]) - _RELAYS


def test_headers_of_replies_and_dead_letters_are_the_described_ones() -> None:
    settings = Settings.model_construct()
    traced = record(b"", traceparent=b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    (reply,) = UsersHandler(settings).refuse(traced, "EMPTY")
    always, known = _described("userResponse")
    assert always <= {name for name, _ in reply.headers} <= known
    letter = dead_letter(
        record(b"x" * 2_000_000, nothing=None), topic="t", consumer="c", source="s", reason="r", attempts=None,
        max_bytes=900_000,
    )  # fmt: skip
    always, known = _described("userDeadLetter")
    assert always <= {name for name, _ in letter.headers} <= known


def test_the_relay_adds_the_rest() -> None:
    message = OwedMessage(0, 1, str(uuid4()), "t", None, [], b"", "type", 1_767_323_045_670_000)
    assert {name for name, _ in record_headers(message)} == _RELAYS
