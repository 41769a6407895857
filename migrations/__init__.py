"""The database's schema, as alembic migrations in two branches: `engine` and `app`."""

from alembic import op


def run_script(script: str) -> None:
    """Run several statements at once, inside the migration's transaction.

    asyncpg prepares each statement that it gets through SQLAlchemy, and a prepared statement is one statement.
    """
    driver = op.get_bind().connection
    driver.run_async(lambda connection: connection.execute(script))
