"""The engine's tables (design: what a table promises is in its constraints).

The statements on them: `app.outbox.writer` adds a message, `app.outbox.operators` serves people, `relay.store`
delivers. The functions that belong to them are in the migrations of the branch `engine`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.types import UserDefinedType

from app.db import NAMING_CONVENTION

LANES = 32
"""Number of lanes; fixed at installation, because a key must never change its lane."""

metadata = MetaData(naming_convention=NAMING_CONVENTION)
_moment = TIMESTAMP(timezone=True)


class Xid8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        """The type's name in DDL."""
        return "xid8"


class MessageIdRange(UserDefinedType[object]):
    """A range of ids of messages; the type is the outbox's own."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        """The type's name in DDL."""
        return "outbox_message_id_range"


def _message() -> list[Column[object]]:
    """What a message is, wherever it lies; fresh columns for each table."""
    return [
        Column("lane", SmallInteger, primary_key=True, autoincrement=False),
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("message_id", Uuid, nullable=False),
        Column("topic", Text, nullable=False),
        Column("key", LargeBinary),
        Column("headers", ARRAY(LargeBinary), nullable=False),
        Column("payload", LargeBinary),
        Column("type", Text, nullable=False),
        Column("created_at", _moment, nullable=False),
    ]


message_ids = Sequence("outbox_messages_id_seq", metadata=metadata)

# A row here is owed. There is no status: delivery deletes the row.
outbox_messages = Table(
    "outbox_messages",
    metadata,
    *_message(),
    CheckConstraint("outbox_check_message(lane, topic, key, headers, payload, type)", name="message"),
    Index("ix_outbox_messages_message_id", "message_id"),
)

# One row a lane. Its row lock is the claim; `floor`, `seen`, `mark` and `mark_xid` are the rule of the floor;
# `has_parked` says that messages of the lane lie parked behind a closed topic.
outbox_lanes = Table(
    "outbox_lanes",
    metadata,
    Column("lane", SmallInteger, primary_key=True, autoincrement=False),
    Column("floor", BigInteger, nullable=False, server_default=text("0")),
    Column("seen", BigInteger, nullable=False, server_default=text("0")),
    Column("mark", BigInteger),
    Column("mark_xid", Xid8),
    Column("has_parked", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("(mark IS NULL) = (mark_xid IS NULL)", name="mark"),
)

# What all relays know of a topic. Paused by people; closed by the breaker until a moment of the database's clock, and
# then half-open until a message of it is confirmed.
outbox_topics = Table(
    "outbox_topics",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("on_dead_letter", Text, nullable=False, server_default=text("'park'")),
    Column("paused_at", _moment),
    Column("paused_by", Text),
    Column("pause_reason", Text),
    Column("closed_at", _moment),
    Column("closed_until", _moment),
    Column("close_reason", Text),
    Column("closures", Integer, nullable=False, server_default=text("0")),
    Column("refused_in_a_row", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("on_dead_letter IN ('park', 'continue')", name="on_dead_letter"),
    CheckConstraint("(closed_at IS NULL) = (closed_until IS NULL)", name="closed"),
)

# Held, out of the lane, whole: `behind` a dead letter of the same (topic, key), or, when NULL, behind a closed topic.
outbox_parked = Table(
    "outbox_parked",
    metadata,
    *_message(),
    Column("behind", BigInteger),
    Column("parked_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Index("ix_outbox_parked_message_id", "message_id"),
    Index("ix_outbox_parked_topic_lane_id", "topic", "lane", "id", postgresql_where=text("behind IS NULL")),
    Index("ix_outbox_parked_behind_id", "behind", "id", postgresql_where=text("behind IS NOT NULL")),
)

# Refused by Kafka for what it is. `dead` until somebody decides; `returning_at` is set while messages that waited
# behind it (or it itself, retried) may still lie parked.
outbox_dead_letters = Table(
    "outbox_dead_letters",
    metadata,
    *_message(),
    Column("state", Text, nullable=False, server_default=text("'dead'")),
    Column("reason", Text, nullable=False),
    Column("refusals", Integer, nullable=False, server_default=text("1")),
    Column("first_refused_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Column("refused_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Column("decided_at", _moment),
    Column("decided_by", Text),
    Column("decision_reason", Text),
    Column("returning_at", _moment),
    CheckConstraint("state IN ('dead', 'retried', 'discarded')", name="state"),
    CheckConstraint("(state = 'dead') = (decided_at IS NULL)", name="decided"),
    CheckConstraint("state <> 'discarded' OR decision_reason <> ''", name="discard_reason"),
    Index("ix_outbox_dead_letters_message_id", "message_id"),
    Index(
        "ix_outbox_dead_letters_key",
        literal_column("hashtextextended(encode(key, 'hex'), 0)"),
        "id",
        postgresql_where=text("state = 'dead'"),
    ),
    Index("ix_outbox_dead_letters_lane_returning", "lane", postgresql_where=text("returning_at IS NOT NULL")),
)

# What the broker confirmed, a row for each batch of it: message n (from 0) lies at `offset` + n, and has place n in
# each of the arrays. `span` is from the smallest to the largest message id; with it a message is found. One partition a
# day (`outbox_roll_receipts`), and a default one, so that a settle never fails for want of a partition. The view
# `outbox_receipts` shows one row a message.
outbox_receipt_batches = Table(
    "outbox_receipt_batches",
    metadata,
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("delivered_at", _moment, nullable=False),
    Column("span", MessageIdRange, nullable=False),
    Column("message_ids", ARRAY(Uuid), nullable=False),
    # The messages' own: for one key, id order is commit order. NULL in receipts of before ids were kept.
    Column("ids", ARRAY(BigInteger), nullable=False),
    # Microseconds since 1970, UTC.
    Column("created_at_us", ARRAY(BigInteger), nullable=False),
    Column("fingerprints", ARRAY(BigInteger), nullable=False),
    CheckConstraint(
        "cardinality(message_ids) > 0 AND cardinality(ids) = cardinality(message_ids) "
        "AND cardinality(created_at_us) = cardinality(message_ids) "
        "AND cardinality(fingerprints) = cardinality(message_ids)",
        name="messages",
    ),
    Index("ix_outbox_receipt_batches_span", "span", postgresql_using="gist"),
    Index(
        "ix_outbox_receipt_batches_delivered_at",
        "delivered_at",
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    ),
    postgresql_partition_by="RANGE (delivered_at)",
)

# The answer to a request, kept for its repeats; written by `app.api.idempotency` in the request's own transaction.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("expires_at", _moment, nullable=False),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)
