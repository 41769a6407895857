"""What a user looks like in answers to requests over HTTP."""

from datetime import date, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.users.validation import EMAIL_MAX_LENGTH

UserId = Annotated[int, Field(ge=1, le=2**63 - 1, description="Number of the user.", examples=[50])]
Email = Annotated[str, Field(min_length=1, max_length=EMAIL_MAX_LENGTH, pattern=r"^[!-~]+$")]


class User(BaseModel):
    """A user as it was stored."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": 50,
                    "name": "Иван",
                    "surname": "Иванов",
                    "email": "ivan.ivanov.2023.2024@yandex.com",
                    "birthday": "2005-10-23",
                    "created_at": "2026-11-21T09:30:00.123456Z",
                }
            ]
        },
    )

    id: UserId
    name: Annotated[str, Field(description="Given name.")]
    surname: Annotated[str, Field(description="Family name.")]
    email: Annotated[str, Field(description="As it was given.")]
    birthday: Annotated[date, Field(description="The civil date as it was written, whatever its offset.")]
    created_at: Annotated[datetime, Field(description="When it was stored, by the clock of the database (UTC).")]
