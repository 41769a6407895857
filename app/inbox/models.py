"""The tables of the inbox. All statements on them are in `app.inbox.store`."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.db import NAMING_CONVENTION

metadata = MetaData(naming_convention=NAMING_CONVENTION)
_bytewise = Text(collation="C")


def _moment(name: str) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp())


# A row here has had its effect, in the transaction that wrote the row.
inbox_messages = Table(
    "inbox_messages",
    metadata,
    Column("consumer", _bytewise, primary_key=True),
    Column("message_id", _bytewise, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("outcome", Text, nullable=False),
    _moment("handled_at"),
    CheckConstraint("octet_length(message_id) BETWEEN 1 AND 500", name="message_id"),
    CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
    CheckConstraint("outcome IN ('handled', 'dead_lettered')", name="outcome"),
    Index("ix_inbox_messages_handled_at", "handled_at", postgresql_using="brin"),
)

# Records that were begun and not finished, by their places: before parsing there may be no id.
inbox_attempts = Table(
    "inbox_attempts",
    metadata,
    Column("consumer", _bytewise, primary_key=True),
    Column("topic", _bytewise, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("attempts", Integer, nullable=False),
    _moment("first_at"),
    CheckConstraint("attempts > 0", name="attempts"),
)

# Who reads which partition. A row that is found by the next reader says that the last one did not finish tidily.
inbox_assignments = Table(
    "inbox_assignments",
    metadata,
    Column("consumer", _bytewise, primary_key=True),
    Column("topic", _bytewise, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("owner", Uuid, nullable=False),
    _moment("since"),
)
