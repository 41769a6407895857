"""What `outbox up` says of its first application."""

from collections.abc import Mapping

import pytest

from app.cli import http, up
from app.cli.http import Answer

_BUSY, _STILL_AT_IT = (Answer(status, {"retry-after": "0"}, b"") for status in (503, 409))
_CREATED = Answer(201, {}, b"")


async def test_a_busy_machine_is_asked_again_and_knows_the_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, keys = [_BUSY, _STILL_AT_IT, _CREATED], list[str]()

    def ask(_url: str, *, headers: Mapping[str, str], **_: object) -> Answer:
        keys.append(headers["Idempotency-Key"])
        return answers.pop(0)

    monkeypatch.setattr(http, "ask", ask)
    assert await up._insist("http://127.0.0.1:8000/applications") is _CREATED
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_what_will_not_be_taken_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Answer(422, {}, b""), _CREATED]
    monkeypatch.setattr(http, "ask", lambda *_, **__: answers.pop(0))
    assert (await up._insist("http://127.0.0.1:8000/applications")).status == 422
