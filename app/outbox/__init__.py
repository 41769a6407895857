"""The outbox: messages owed to Kafka, written by the transaction that caused them.

The public face is `add` and the messages it takes; `select outbox_add(…)` is the same door for plain SQL.
"""

from app.outbox.message import OutboxMessage, event
from app.outbox.writer import add

__all__ = ["OutboxMessage", "add", "event"]
