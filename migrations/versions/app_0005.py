"""The look into the cache of answers, for the statement that claims a task."""

from migrations import run_script

revision = "app_0005"
down_revision = "app_0004"
branch_labels = None
depends_on = None

# VOLATILE, so that it looks with a snapshot of its own, taken when it is called: that of the statement that calls it
# may be older than the answer.
_CACHED = """
CREATE FUNCTION integration_cached(wanted bytea, ttl interval) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT data FROM integration_cache WHERE cache_key = wanted AND stored_at > statement_timestamp() - ttl
$$
"""


def upgrade() -> None:
    run_script(_CACHED)


def downgrade() -> None:
    run_script("DROP FUNCTION integration_cached(bytea, interval)")
