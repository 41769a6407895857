"""Lists of applications: newest first by the time they were stored, by name, by its beginning, by range of time."""

from migrations import run_script

revision = "app_0004"
down_revision = "app_0003"
branch_labels = None
depends_on = None

# Folds are compared by their bytes, whatever the collation of the database: then one index serves equality, order and
# beginnings (LIKE 'x%').
_BYTEWISE = """
ALTER TABLE applications ALTER user_name_folded TYPE text COLLATE "C";
DROP INDEX ix_applications_user_name_folded_id;
CREATE INDEX ix_applications_user_name_folded_created_at_id ON applications (user_name_folded, created_at, id);
CREATE INDEX ix_applications_created_at_id ON applications (created_at, id);
"""

_BEFORE = """
DROP INDEX ix_applications_created_at_id;
DROP INDEX ix_applications_user_name_folded_created_at_id;
ALTER TABLE applications ALTER user_name_folded TYPE text COLLATE "default";
CREATE INDEX ix_applications_user_name_folded_id ON applications (user_name_folded, id DESC);
"""


def upgrade() -> None:
    run_script(_BYTEWISE)


def downgrade() -> None:
    run_script(_BEFORE)
