"""The inbox: ids of messages already dealt with, attempts at records, and who reads which partition."""

from alembic import op

from migrations import run_script

revision = "engine_0002"
down_revision = "engine_0001"
branch_labels = None
depends_on = None

# Ids are compared byte by byte: collation "C" is the fastest, and the same on every machine. Rows come in the order of
# `handled_at`, so a BRIN index is enough for the retention.
_MESSAGES = """
CREATE TABLE inbox_messages (
    consumer text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    outcome text NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_inbox_messages PRIMARY KEY (consumer, message_id),
    CONSTRAINT ck_inbox_messages_message_id CHECK (octet_length(message_id) BETWEEN 1 AND 500),
    CONSTRAINT ck_inbox_messages_fingerprint CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT ck_inbox_messages_outcome CHECK (outcome IN ('handled', 'dead_lettered'))
);
CREATE INDEX ix_inbox_messages_handled_at ON inbox_messages USING brin (handled_at);
"""

_ATTEMPTS = """
CREATE TABLE inbox_attempts (
    consumer text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    attempts integer NOT NULL,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_inbox_attempts PRIMARY KEY (consumer, topic, partition, "offset"),
    CONSTRAINT ck_inbox_attempts_attempts CHECK (attempts > 0)
) WITH (fillfactor = 50)
"""

_ASSIGNMENTS = """
CREATE TABLE inbox_assignments (
    consumer text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    owner uuid NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_inbox_assignments PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    for script in (_MESSAGES, _ATTEMPTS, _ASSIGNMENTS):
        run_script(script)


def downgrade() -> None:
    op.execute("DROP TABLE inbox_messages, inbox_attempts, inbox_assignments")
