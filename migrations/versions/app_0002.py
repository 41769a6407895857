"""Users."""

from alembic import op

from migrations import run_script

revision = "app_0002"
down_revision = "app_0001"
branch_labels = None
depends_on = "engine_0002"

# One user for each email: `namesake` is 0. Where several may share one (USERS_SAME_EMAIL=allow), each has a random
# number of its own.
_USERS = """
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    surname text NOT NULL,
    email text NOT NULL,
    email_key text COLLATE "C" NOT NULL,
    namesake bigint NOT NULL DEFAULT 0,
    birthday date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_users PRIMARY KEY (id),
    CONSTRAINT uq_users_email_key UNIQUE (email_key, namesake),
    CONSTRAINT ck_users_name CHECK (name <> ''),
    CONSTRAINT ck_users_surname CHECK (surname <> ''),
    CONSTRAINT ck_users_email CHECK (email <> '')
);
"""


def upgrade() -> None:
    run_script(_USERS)


def downgrade() -> None:
    op.execute("DROP TABLE users")
