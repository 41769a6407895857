"""Applications."""

from alembic import op

from migrations import run_script

revision = "app_0001"
down_revision = None
branch_labels = ("app",)
depends_on = "engine_0001"

_APPLICATIONS = """
CREATE TABLE applications (
    id bigint GENERATED ALWAYS AS IDENTITY,
    user_name text NOT NULL,
    user_name_folded text NOT NULL,
    description text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_applications PRIMARY KEY (id),
    CONSTRAINT ck_applications_user_name CHECK (user_name <> ''),
    CONSTRAINT ck_applications_description CHECK (description <> '')
);
CREATE INDEX ix_applications_user_name_folded_id ON applications (user_name_folded, id DESC);
"""


def upgrade() -> None:
    run_script(_APPLICATIONS)


def downgrade() -> None:
    op.execute("DROP TABLE applications")
