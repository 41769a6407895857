"""A request by hand, through everything on one machine."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.command import outbox_aside
from tests.consuming import request_xml, user_xml
from tests.e2e.test_up import Up, folder, pytestmark, up

__all__ = ["folder", "pytestmark"]


@pytest.fixture
async def running(folder: Path) -> AsyncIterator[Up]:
    async with up(folder, "--no-first-message") as it:
        yield it


async def test_a_request_by_hand_is_answered(running: Up) -> None:
    settings = {"KAFKA_BOOTSTRAP_SERVERS": running.bootstrap_servers, "KAFKA_CHECK_CRCS": "false"}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "request.xml"
        file.write_bytes(request_xml(user_xml("ivan@example.com")))
        sent = await outbox_aside("users", "send", file, "--key", "ivan", **settings)
        assert sent.exit_code == 0, sent.output
        assert "<ns2:Id>1</ns2:Id><ns2:Status>SUCCESS</ns2:Status>" in sent.stdout
        again = await outbox_aside("users", "send", file, **settings)
        assert again.exit_code == 1
        assert "<ns2:Status>FAILED</ns2:Status>" in again.stdout
        assert "error-code: EMAIL_TAKEN" in again.stderr
        file.write_bytes(b"<not xml")
        unreadable = await outbox_aside("users", "send", file, "--json", **settings)
        assert unreadable.exit_code == 1
        assert "NOT_XML" in unreadable.stdout
        assert "not valid against request.xsd" in unreadable.stderr
    async with httpx2.AsyncClient(base_url=running.url) as client:
        listed = (await client.get("/users")).json()
        assert [user["email"] for user in listed["items"]] == ["ivan@example.com"]
        ready = (await client.get("/readyz")).json()
        assert ready["checks"]["consumer users"]["ready"]
    assert await running.stop() == 0
