"""What the world hears about applications."""

from app import outbox
from app.applications.schemas import Application


def application_created(
    application: Application, *, topic: str, source: str, traceparent: str | None = None
) -> outbox.OutboxMessage:
    """The event of a new application: its value is the application as the caller got it, byte for byte. `traceparent`
    is the trace context of the caller's request.

    Events of one application share its id as their key, and so keep their order.
    """
    return outbox.event(
        topic=topic,
        key=str(application.id),
        type="application.created",
        source=source,
        data=application.model_dump_json().encode(),
        traceparent=traceparent,
    )
