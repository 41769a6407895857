"""The index that makes parts of names fast. It needs the extension pg_trgm, which not every server has, so it is put in
place on request only.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import OutboxError

NAME = "ix_applications_user_name_folded_trgm"

_AVAILABLE = text("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm')")
_EXTENSION = text("CREATE EXTENSION IF NOT EXISTS pg_trgm")
_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
# One that was interrupted is there, but of no use.
_DROP = text(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
_CREATE = text(f"CREATE INDEX CONCURRENTLY {NAME} ON applications USING gin (user_name_folded gin_trgm_ops)")


async def create(connection: AsyncConnection) -> bool:
    """Create the index while requests go on; safe to repeat. Was there anything to do?

    `connection` must be in autocommit. Raises OutboxError when the server does not have the extension.
    """
    if not await connection.scalar(_AVAILABLE):
        raise OutboxError(
            "this PostgreSQL does not have the extension pg_trgm (Debian: postgresql-contrib); without it "
            "`user_name__like` is a scan that is given up after SEARCH_DEADLINE"
        )
    if await connection.scalar(_VALID, {"name": NAME}):
        return False
    await connection.execute(_EXTENSION)
    await connection.execute(_DROP)
    await connection.execute(_CREATE)
    return True
