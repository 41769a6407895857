"""Who gives a command: it is recorded with what was decided."""

import os
import pwd
from typing import Annotated, TypeAlias

import typer

By: TypeAlias = Annotated[
    str | None, typer.Option("--by", help="Who decides, for the record; the user of this machine if not given.")
]


def name_of(by: str | None) -> str:
    """The name for the record: the given one, else that of the process's user."""
    if by is not None and by.strip():
        return by.strip()
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"  # in a container there may be no name for the number
