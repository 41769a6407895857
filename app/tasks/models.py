"""The tables of integration tasks. The statements on them: `service` for requests, `store` for the runner,
`operators` for people.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from app.db import Base

_moment = TIMESTAMP(timezone=True)
_NEVER = text("'-infinity'")

# What was answered, as the provider said it. Three columns and no more.
results = Table(
    "integration_service",
    Base.metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("data", JSONB, nullable=False),
    Column("task_type", Text, nullable=False),
    CheckConstraint("task_type IN ('phone', 'email', 'gpt')", name="task_type"),
)

# What was asked, under the number that the caller gave it, and how far it is.
#   pending  waits for `due_at`; with `operation_id`, for an answer that is already paid
#   running  a process asks the provider, until `leased_until` at the latest
#   held     whether it was paid is not known, and people decide
#   done     `result_id` has the answer;  failed  `error` says why there is none
tasks = Table(
    "integration_tasks",
    Base.metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("task_type", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("cache_key", LargeBinary),
    Column("origin", Text, nullable=False),
    Column("traceparent", Text),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("operation_id", Text),
    Column("attempt_id", BigInteger),
    Column("result_id", BigInteger, ForeignKey(results.c.id)),
    Column("error", Text),
    Column("accepted_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Column("due_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Column("leased_until", _moment),
    Column("finished_at", _moment),
    UniqueConstraint("result_id"),
    CheckConstraint("task_type IN ('phone', 'email', 'gpt')", name="task_type"),
    CheckConstraint("state IN ('pending', 'running', 'held', 'done', 'failed')", name="state"),
    CheckConstraint("origin IN ('rest', 'kafka')", name="origin"),
    CheckConstraint("(state = 'done') = (result_id IS NOT NULL)", name="result"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="error"),
    CheckConstraint("(state IN ('done', 'failed')) = (finished_at IS NOT NULL)", name="finished"),
    CheckConstraint("(state = 'running') = (leased_until IS NOT NULL)", name="lease"),
    Index("ix_integration_tasks_due", "provider", "due_at", "task_id", postgresql_where=text("state = 'pending'")),
    Index("ix_integration_tasks_leased_until", "leased_until", postgresql_where=text("state = 'running'")),
    Index("ix_integration_tasks_held", "task_id", postgresql_where=text("state = 'held'")),
    # The single flight: of tasks that ask the same, one runs at a time.
    Index("uq_integration_tasks_in_flight", "cache_key", unique=True, postgresql_where=text("state = 'running'")),
)

# One row a call that may be billed, committed before the call.
attempts = Table(
    "integration_attempts",
    Base.metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("task_id", BigInteger, ForeignKey(tasks.c.task_id, ondelete="CASCADE"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("started_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Column("ended_at", _moment),
    Column("outcome", Text),
    Column("code", Text),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
    Index("ix_integration_attempts_task_id", "task_id"),
    Index("ix_integration_attempts_unknown", "provider", postgresql_where=text("outcome = 'unknown'")),
)

# Answers about phones and emails, by the hash of the normalised input.
cache = Table(
    "integration_cache",
    Base.metadata,
    Column("cache_key", LargeBinary, primary_key=True),
    Column("data", JSONB, nullable=False),
    Column("stored_at", _moment, nullable=False, server_default=func.clock_timestamp()),
    Index("ix_integration_cache_stored_at", "stored_at"),
)

# What all processes know of a provider: failures in a row, whether it refuses us, closed until when.
providers = Table(
    "integration_providers",
    Base.metadata,
    Column("provider", Text, primary_key=True),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("blocked", Text),
    Column("closed_until", _moment, nullable=False, server_default=_NEVER),
)

# One row a request that may be under way at a provider, over all processes. `free_at` keeps the rate.
slots = Table(
    "integration_slots",
    Base.metadata,
    Column("provider", Text, ForeignKey(providers.c.provider), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("holder", Uuid),
    Column("leased_until", _moment, nullable=False, server_default=_NEVER),
    Column("free_at", _moment, nullable=False, server_default=_NEVER),
)
