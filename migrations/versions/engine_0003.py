"""Answers kept for repeats of HTTP requests: `Idempotency-Key`."""

from alembic import op

from migrations import run_script

revision = "engine_0003"
down_revision = "engine_0002"
branch_labels = None
depends_on = None

_IDEMPOTENCY_KEYS = """
CREATE TABLE idempotency_keys (
    scope text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (scope, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);
"""


def upgrade() -> None:
    run_script(_IDEMPOTENCY_KEYS)


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
