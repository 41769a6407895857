"""Commands without services: their help, their exit codes, and one line for what is wrong."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import typer

from app import cli
from tests.command import outbox


def _commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from _commands(each, *path, name)
    else:
        yield path, command


_ID = "01a1fddf-ab5d-7585-872e-aae96a7bbf10"

COMMANDS = dict(_commands(typer.main.get_command(cli.app)))


def test_what_there_is() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "up",
        "demo",
        "api",
        "relay",
        "worker",
        "users send",
        "tasks list",
        "tasks show",
        "tasks release",
        "tasks discard",
        "tasks resume",
        "fakes",
        "health",
        "migrate",
        "roles",
        "search-index",
        "api-key",
        "docs openapi",
        "docs errors",
        "status",
        "topics ensure",
        "topics asyncapi",
        "topics list",
        "topics pause",
        "topics resume",
        "topics policy",
        "dead-letters list",
        "dead-letters show",
        "dead-letters retry",
        "dead-letters discard",
        "verify",
        "settings markdown",
        "settings env",
        "chaos",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_explains_itself_with_an_example(path: tuple[str, ...]) -> None:
    result = outbox(*path, "--help")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "Example: " in shown
    assert f"outbox {' '.join(path)}" in shown.partition("Example: ")[2]
    assert COMMANDS[path].help


@pytest.mark.parametrize(
    "arguments",
    [["api"], ["relay"], ["migrate"], ["status"], ["topics", "list"], ["topics", "ensure"], ["up"], ["demo"]],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_not_its_value(arguments: list[str]) -> None:
    result = outbox(*arguments, RELAY_SLOTS="many secrets")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: RELAY_SLOTS: ")
    assert result.stderr.count("\n") == 1
    assert "secrets" not in result.output


def test_settings_that_do_not_fit_together_say_what_to_change() -> None:
    result = outbox("relay", PUBLISH_DEADLINE="40")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "RELAY_IDLE_TIMEOUT" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["topics", "list"],
        ["topics", "resume", "t"],
        ["dead-letters", "list"],
        ["dead-letters", "retry", "--all"],
        ["migrate", "--timeout", "0"],
    ],
)
def test_a_database_that_is_not_there_is_one_line(arguments: list[str]) -> None:
    result = outbox(*arguments)
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [result.stderr.splitlines()[-1]]
    assert "the database did not answer" in errors[0]


def test_a_kafka_that_is_not_there_is_one_line() -> None:
    result = outbox("topics", "ensure", "--timeout", "0.2")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(
        "error: the topics could not be ensured on 127.0.0.1:1 within 0.2 s"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead-letters", "retry"],
        ["dead-letters", "retry", "--all", "--topic", "t"],
        ["dead-letters", "retry", "--all", _ID],
        ["dead-letters", "retry", "not-an-id"],
        ["dead-letters", "discard", "--reason", "why"],
        ["dead-letters", "discard", _ID],
        ["dead-letters", "discard", _ID, "--reason", "  "],
        ["dead-letters", "list", "--state", "alive"],
        ["dead-letters", "list", "--limit", "0"],
        ["topics", "pause", "t"],
        ["topics", "pause", "t", "--reason", ""],
        ["topics", "pause", "no spaces", "--reason", "why"],
        ["topics", "ensure", "no/slashes"],
        ["topics", "policy", "t", "maybe"],
        ["up", "--port", "70000"],
        ["health", "--url", "file:///etc/passwd"],
        ["health", "--url", "http://127.0.0.1:port/"],
        ["fly"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_before_anything_is_asked(arguments: list[str]) -> None:
    result = outbox(*arguments)
    assert result.exit_code == 2, result.output
    assert "did not answer" not in result.stderr


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path == "/readyz"
        body = b'{"status":"ready"}' if ready else b'{"detail":"not ready: database"}'
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def health_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_health_tells_by_its_exit_code(health_url: str) -> None:
    ready = outbox("health", "--url", f"{health_url}/readyz")
    assert (ready.exit_code, ready.stdout) == (0, "ready\n")
    not_ready = outbox("health", "--url", f"{health_url}/other", "--json")
    assert (not_ready.exit_code, json.loads(not_ready.stdout)) == (1, {"detail": "not ready: database"})
    assert outbox("health", "--url", f"{health_url}/other").stdout == "not ready: database\n"
    by_port = outbox("health", API_PORT=health_url.rpartition(":")[2])
    assert by_port.exit_code == 0
    nobody = outbox("health", "--url", "http://127.0.0.1:1/readyz")
    assert (nobody.exit_code, nobody.stderr.count("\n")) == (1, 1)


def test_the_roles_can_be_read_before_they_are_made() -> None:
    result = outbox("roles", "--print")
    assert result.exit_code == 0
    assert result.stdout.startswith("BEGIN;\n")
    assert "applications" in result.stdout
    assert "applications" not in outbox("roles", "--print", "--engine-only").stdout


def test_ctrl_c_before_anything_is_ready_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.running.settings", interrupt)
    assert outbox("api").exit_code == 130


def test_who_decides_is_whom_the_command_names_or_the_user_of_the_process() -> None:
    from app.cli.who import name_of

    assert name_of("  ann ") == "ann"
    assert name_of(None)
    assert name_of(" ") == name_of(None) != str(os.getuid())
