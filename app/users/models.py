"""The table of users."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Identity,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from app.db import Base

# `email_key` is what `app.users.validation` makes of `email` for comparing. `namesake` is 0 for the one user of an
# email, a random number of its own for each of several who may share one.
users = Table(
    "users",
    Base.metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("surname", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("email_key", Text(collation="C"), nullable=False),
    Column("namesake", BigInteger, nullable=False, server_default=text("0")),
    Column("birthday", Date, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    UniqueConstraint("email_key", "namesake", name="uq_users_email_key"),
    CheckConstraint("name <> ''", name="name"),
    CheckConstraint("surname <> ''", name="surname"),
    CheckConstraint("email <> ''", name="email"),
)
