"""The table of applications."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Table, Text, func
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.db import Base

# `user_name_folded` is what `app.applications.names.fold` makes of `user_name`. It is computed by us, because
# lower() of PostgreSQL depends on the collation (with "C" it leaves Cyrillic alone).
applications = Table(
    "applications",
    Base.metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("user_name", Text, nullable=False),
    Column("user_name_folded", Text(collation="C"), nullable=False),
    Column("description", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("user_name <> ''", name="user_name"),
    CheckConstraint("description <> ''", name="description"),
)

# Serve the order, newest or oldest first, and keysets; the first one for a name or its beginning.
Index(
    "ix_applications_user_name_folded_created_at_id",
    applications.c.user_name_folded,
    applications.c.created_at,
    applications.c.id,
)
Index("ix_applications_created_at_id", applications.c.created_at, applications.c.id)
