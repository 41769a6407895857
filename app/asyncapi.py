"""The AsyncAPI 3.0 document of all topics: what is sent to them, what is taken from them, with which headers.

Generated from the code and the settings, so that it cannot say something else. `/asyncapi.json` serves it,
`outbox topics asyncapi` prints it.
"""

from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from app.applications.schemas import Application
from app.settings import Settings
from app.tasks.schemas import Failure, Finished, NewTask
from app.users.events import CORRELATION_HEADERS, REPLY_TOPIC_HEADER, TYPE

VERSION = "3.0.0"

_DESCRIPTION = """\
Messages reach their topic at least once, in order per key; `ce_id` tells a repeat. Requests that carry a `ce_id` (with
`ce_source`) of their own are handled once, however often and wherever they are sent."""

_ENVELOPE = {
    "ce_specversion": "CloudEvents 1.0, Kafka binary mode.",
    "ce_id": "Identity of the message, a UUIDv7; the same in each repeat.",
    "ce_type": "What kind of message it is.",
    "ce_time": "When it was written to the outbox (RFC 3339).",
    "ce_source": "Who wrote it.",
}
_REPLY = {
    "correlation-id": "That of the request; where it had none, the place it was read from.",
    "source-topic": "Topic of the request.",
    "source-partition": "Partition of the request.",
    "source-offset": "Offset of the request.",
}
_REPLY_SOMETIMES = {
    "error-code": "On FAILED: INVALID, EMAIL_TAKEN, or why the request could not be read.",
    "error-fields": "On FAILED: the fields at fault, separated by commas.",
    "traceparent": "That of the request (W3C Trace Context).",
}
_REQUEST_SOMETIMES = {
    "ce_id": "Identity of the request, unique with ce_source; a repeat is recognised by it.",
    "ce_source": "Who sends it.",
    **dict.fromkeys(CORRELATION_HEADERS, "Is taken over into the reply."),
    REPLY_TOPIC_HEADER: "Another topic for the reply, if it is one of USERS_REPLY_TOPICS.",
    "traceparent": "Is taken over into the reply (W3C Trace Context).",
}
_EVENT = {**_ENVELOPE, "ce_subject": "Its number.", "content-type": "Of the value."}
_TASK_SOMETIMES = {
    "ce_id": "Identity of the message, unique with ce_source; a repeat is recognised by it.",
    "ce_source": "Who sends it.",
    "traceparent": "Is taken over into the results (W3C Trace Context).",
}
_RESULT_SOMETIMES = {"traceparent": "That of the task (W3C Trace Context)."}
_DEAD_LETTER = {
    "dlq.reason": "Why it is a dead letter: NOT_XML, DTD_FORBIDDEN, HEADER_NOT_UTF8, KEY_REUSED, ATTEMPTS_EXHAUSTED, …",
    "dlq.consumer": "The group that read it.",
    "dlq.topic": "Where it was read.",
    "dlq.partition": "Where it was read.",
    "dlq.offset": "Where it was read.",
    "dlq.timestamp": "Its timestamp, in milliseconds since 1970.",
}
_DEAD_LETTER_SOMETIMES = {
    "dlq.attempts": "How often it was begun.",
    "dlq.first-attempt-at": "When it was first begun.",
    "dlq.null-headers": "Names of headers that had no value.",
    "dlq.cut": "What of it was too large and is cut to its beginning: value, key, headers.",
    "dlq.value-bytes": "Length of the whole value, where something was cut.",
    "dlq.value-sha256": "Hash of the whole value, where something was cut.",
}


def document(settings: Settings) -> dict[str, Any]:
    """The document, with the topics of these settings."""
    created, requested, answered, dead = "applicationCreated", "userRequest", "userResponse", "userDeadLetter"
    asked, finished, failed, no_task = "newTask", "taskFinished", "taskFailed", "taskDeadLetter"
    return {
        "asyncapi": VERSION,
        "info": {"title": "Outbox service", "version": "0.1.0", "description": _DESCRIPTION},
        "channels": {
            "applications": _channel(settings.applications_topic, created, "Events of applications."),
            "userRequests": _channel(settings.users_requests_topic, requested, "Requests to store users."),
            "userResponses": _channel(settings.users_responses_topic, answered, "One reply to each request."),
            "userDeadLetters": _channel(
                settings.users_dead_letters_topic, dead, "Requests that could not be read, as they came."
            ),
            "tasks": _channel(settings.kafka_import_topic, asked, "Tasks to be done."),
            "taskResults": _channel(settings.kafka_result_topic, finished, "Results of tasks, whoever sent them."),
            "taskErrors": _channel(settings.kafka_error_topic, failed, "Tasks that have no result and will have none."),
            "taskDeadLetters": _channel(
                settings.kafka_import_dead_letters_topic, no_task, "What is no task, or not this one, as it came."
            ),
        },
        "operations": {
            "sendApplicationCreated": _operation("send", "applications", created),
            "receiveUserRequest": {
                **_operation("receive", "userRequests", requested),
                "reply": {
                    "channel": {"$ref": "#/channels/userResponses"},
                    "messages": [{"$ref": f"#/channels/userResponses/messages/{answered}"}],
                },
            },
            "sendUserDeadLetter": _operation("send", "userDeadLetters", dead),
            "receiveTask": _operation("receive", "tasks", asked),
            "sendTaskFinished": _operation("send", "taskResults", finished),
            "sendTaskFailed": _operation("send", "taskErrors", failed),
            "sendTaskDeadLetter": _operation("send", "taskDeadLetters", no_task),
        },
        "components": {
            "messages": {
                created: {
                    "name": "application.created",
                    "title": "An application was stored",
                    "contentType": "application/json",
                    "headers": _headers(_EVENT),
                    "bindings": _key("Number of the application."),
                    "payload": _schema(Application),
                },
                requested: {
                    "name": "user.request",
                    "title": "Store these users",
                    "contentType": "application/xml",
                    "headers": _headers({}, _REQUEST_SOMETIMES),
                    "bindings": _key("Whatever the requester likes; the reply has the same."),
                    "payload": _xsd("request"),
                },
                answered: {
                    "name": TYPE,
                    "title": "What became of them",
                    "contentType": "application/xml",
                    "headers": _headers({**_ENVELOPE, **_REPLY, "content-type": "Of the value."}, _REPLY_SOMETIMES),
                    "correlationId": {"location": "$message.header#/correlation-id"},
                    "bindings": _key("That of the request."),
                    "payload": _xsd("response"),
                },
                dead: _dead_letter("A request that could not be read", "request"),
                asked: {
                    "name": "task",
                    "title": "Do this",
                    "contentType": "application/json",
                    "headers": _headers({}, _TASK_SOMETIMES),
                    "bindings": _key("Whatever the sender likes."),
                    "payload": NewTask.model_json_schema(),
                },
                finished: {
                    "name": "task.finished",
                    "title": "Where its result is",
                    "contentType": "application/json",
                    "headers": _headers(_EVENT, _RESULT_SOMETIMES),
                    "bindings": _key("Number of the task."),
                    "payload": _schema(Finished),
                },
                failed: {
                    "name": "task.failed",
                    "title": "Why it has none",
                    "contentType": "application/json",
                    "headers": _headers(_EVENT, _RESULT_SOMETIMES),
                    "bindings": _key("Number of the task; where it cannot be read, the place of the input."),
                    "payload": _schema(Failure),
                },
                no_task: _dead_letter("What is no task", "input"),
            }
        },
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of what is sent, in one piece: references would be looked for in the whole document."""
    schema = model.model_json_schema(mode="serialization")
    for name, part in schema.pop("$defs", {}).items():
        for field, value in schema["properties"].items():
            if value == {"$ref": f"#/$defs/{name}"}:
                schema["properties"][field] = part
    return schema


def _dead_letter(title: str, what: str) -> dict[str, Any]:
    return {
        "name": "message.dead_lettered",
        "title": title,
        "contentType": "application/octet-stream",
        "description": f"Headers of the {what} travel along, `ce_*` and `dlq*` as dlq.original.header.*.",
        "headers": _headers({**_ENVELOPE, **_DEAD_LETTER}, _DEAD_LETTER_SOMETIMES),
        "bindings": _key(f"That of the {what}."),
        "payload": {"type": "string", "format": "binary"},
    }


def _channel(topic: str, message: str, description: str) -> dict[str, Any]:
    return {
        "address": topic,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _operation(action: str, channel: str, message: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _headers(always: dict[str, str], sometimes: dict[str, str] | None = None) -> dict[str, Any]:
    described = {**always, **(sometimes or {})}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in described.items()},
    }
    return schema | {"required": sorted(always)} if always else schema


def _key(description: str) -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": description}, "bindingVersion": "0.5.0"}}


def _xsd(kind: str) -> dict[str, Any]:
    """The schema that the package ships, as a schema of its own format (AsyncAPI 3.0, Multi Format Schema Object)."""
    schema = (files("app.users") / f"{kind}.xsd").read_text(encoding="utf-8")
    return {"schemaFormat": "application/xml;version=1.0", "schema": schema}
