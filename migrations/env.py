"""alembic's entry: runs on the connection that `app.migrate` hands over, or on the one the settings name."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import settings
from app.applications import models as _applications  # noqa: F401 - registers its tables
from app.db import Base
from app.inbox.models import metadata as inbox_metadata
from app.migrate import VERSION_TABLE
from app.outbox.models import MessageIdRange, Xid8
from app.outbox.models import metadata as engine_metadata
from app.tasks import models as _tasks  # noqa: F401 - registers its tables
from app.users import models as _users  # noqa: F401 - registers its table


def _is_ours(_object: object, name: str | None, kind: str, reflected: bool, _other: object) -> bool:  # noqa: FBT001 - alembic's signature
    """Leave out what the models do not describe: the daily partitions of the receipts."""
    return not (kind == "table" and reflected and (name or "").startswith("outbox_receipt_batches_"))


def _run(connection: Connection) -> None:
    # Reading the tables back, to compare them with the models, SQLAlchemy meets types that it does not know.
    connection.dialect.ischema_names |= {"xid8": Xid8, "outbox_message_id_range": MessageIdRange}  # type: ignore[attr-defined]
    options: dict[str, Any] = {
        "connection": connection,
        "target_metadata": [engine_metadata, inbox_metadata, Base.metadata],
        "version_table": VERSION_TABLE,
        "include_object": _is_ours,
        "compare_server_default": False,
    }
    context.configure(**options)
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_run() -> None:
    engine = create_async_engine(settings.load().database, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    asyncio.run(_connect_and_run())
