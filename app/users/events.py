"""The replies to requests, as messages: whom they go to, and what their headers say."""

from collections.abc import Sequence

from app import trace
from app.kafka.dead_letter import size
from app.kafka.input import Input, coordinates
from app.outbox import OutboxMessage
from app.settings import Settings
from app.users import xml
from app.users.documents import Failed, Result

TYPE = "user.request.answered"
CORRELATION_HEADERS = ("correlation-id", "correlation_id", "kafka_correlationId")
"""Names under which requests carry their correlation id."""
REPLY_TOPIC_HEADER = "kafka_replyTopic"

_LONGEST_CORRELATION_ID = 4096
_LONGEST_KEY = 65_536


def correlation_id(record: Input) -> bytes | None:
    """The correlation id of a request, if it has one that is not unreasonably long."""
    found = next((value for name in CORRELATION_HEADERS if (value := record.header(name)) is not None), None)
    return None if found is None or len(found) > _LONGEST_CORRELATION_ID else found


def reply(
    record: Input,
    results: Sequence[Result],
    settings: Settings,
    *,
    code: str | None = None,
    fields: Sequence[str] = (),
) -> OutboxMessage:
    """The reply to the request `record`. `code` and `fields` say why, where a result is Failed.

    Its key is the request's, so that replies keep the order of requests; the requester knows it by `correlation-id`.
    """
    payload = xml.render(results)
    headers = _headers(record, settings)
    if code is not None:
        headers.append(("error-code", code.encode()))
        if fields:
            headers.append(("error-fields", ",".join(fields).encode()))
    key = record.key if len(record.key or b"") <= _LONGEST_KEY else None
    if size(key, payload, headers) > settings.message_max_bytes:
        # An echo takes more bytes than what it echoes, for each & and <.
        payload = xml.render([Failed() if isinstance(result, Failed) else result for result in results])
    return OutboxMessage(topic=_topic(record, settings), key=key, payload=payload, type=TYPE, headers=tuple(headers))


def _headers(record: Input, settings: Settings) -> list[tuple[str, bytes]]:
    correlation = correlation_id(record) or coordinates(record).encode()
    headers = [
        ("content-type", b"application/xml"),
        ("ce_source", settings.event_source.encode()),
        ("correlation-id", correlation),
        ("source-topic", record.topic.encode()),
        ("source-partition", str(record.partition).encode()),
        ("source-offset", str(record.offset).encode()),
    ]
    # Clients look for the name that they have sent.
    headers += [(name, correlation) for name in CORRELATION_HEADERS[1:] if record.header(name) == correlation]
    if (traceparent := _traceparent(record)) is not None:
        headers.append(("traceparent", traceparent.encode()))
    return headers


def _traceparent(record: Input) -> str | None:
    given = (record.header("traceparent") or b"")[:100].decode("latin-1")
    return given if given and trace.accept(given) == given else None


def _topic(record: Input, settings: Settings) -> str:
    """The topic that the request asks for, if it is on the list: nobody makes us write anywhere else."""
    asked = (record.header(REPLY_TOPIC_HEADER) or b"")[:250].decode("latin-1")
    return asked if asked and asked in settings.users_reply_topics.split(",") else settings.users_responses_topic
