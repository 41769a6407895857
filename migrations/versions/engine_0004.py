"""Receipts keep the message's id, so that the order in a topic can be checked after the message is gone."""

from alembic import op

revision = "engine_0004"
down_revision = "engine_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default no row is touched: the tables are locked for a moment only.
    op.execute("ALTER TABLE outbox_receipts ADD COLUMN id bigint")


def downgrade() -> None:
    op.execute("ALTER TABLE outbox_receipts DROP COLUMN id")
