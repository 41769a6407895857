"""Kinds of settings."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _seconds(value: object) -> object:
    """Read "2.5" as 2.5 seconds; leave numbers and ISO 8601 ("PT2S") to pydantic."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0 seconds")
    return value


Duration = Annotated[timedelta, BeforeValidator(_seconds), AfterValidator(_positive)]
DurationOrZero = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]
Size = Annotated[int, Field(gt=0)]
Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class Part(BaseSettings):
    """A part of the settings. The text below a field is its description in the generated pages."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)
