"""Judges whether what the outbox has published is as its schema says (15): the XSD of replies, and the headers and JSON
Schemas of `docs/asyncapi.json`, which is what others write their programs by.
"""

import json
from functools import cache
from typing import Any

from jsonschema_rs import Validator, validator_for
from lxml import etree

from tests.chaos.evidence import Evidence
from tests.chaos.judge import Verdict
from tests.command import ROOT
from tests.services.kafka import Record

_MESSAGES = {
    "applications": "applicationCreated",
    "replies": "userResponse",
    "results": "taskFinished",
    "errors": "taskFailed",
}
"""What is sent to each topic, by its role."""
_DEAD_LETTERS = {"users": "userDeadLetter", "tasks": "taskDeadLetter"}
"""What is sent to the topic of dead letters of each input."""


class _Described:
    """What the document says of a kind of message."""

    def __init__(self, name: str) -> None:
        published = json.loads((ROOT / "docs" / "asyncapi.json").read_text(encoding="utf-8"))
        message: dict[str, Any] = published["components"]["messages"][name]
        self._headers = validator_for(message["headers"])
        payload, content_type = message["payload"], message["contentType"]
        self._xml: etree.XMLSchema | None = None
        self._json: Validator | None = None
        if content_type == "application/xml":
            self._xml = etree.XMLSchema(etree.fromstring(payload["schema"].encode()))
        elif content_type == "application/json":
            self._json = validator_for(payload)

    def fits(self, record: Record) -> bool:
        headers = {name: value.decode("utf-8", "replace") for name, value in reversed(record.headers)}
        return self._headers.is_valid(headers) and self._payload_fits(record.value)

    def _payload_fits(self, value: bytes | None) -> bool:
        try:
            if self._xml is not None:
                return bool(self._xml.validate(etree.fromstring(value or b"")))
            return self._json is None or self._json.is_valid(json.loads(value or b""))
        except (etree.LxmlError, ValueError):
            return False


_described = cache(_Described)


def schemas(evidence: Evidence) -> Verdict:
    verdict = Verdict("I15", "what was published is as its schema says, headers included")
    topics = {evidence.topics[role]: name for role, name in _MESSAGES.items()}
    topics |= {evidence.dead_letter_topics[evidence.topics[role]]: name for role, name in _DEAD_LETTERS.items()}
    for topic, name in topics.items():
        for record in evidence.records[topic]:
            fits = _described(name).fits(record)
            verdict.check(fits, f"{topic}/{record.partition}@{record.offset} is no {name}")
    return verdict
