"""What an application looks like from outside: in requests, in answers and in events."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

_NAME, _DESCRIPTION = "Анна Petrova", "Please connect the flat to the internet."


def _storable(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain the character U+0000")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_storable)]
"""Something to read, without space around it. PostgreSQL cannot store U+0000."""

ApplicationId = Annotated[int, Field(ge=1, le=2**63 - 1, description="Number of the application.", examples=[1])]


class NewApplication(BaseModel):
    """An application as it is posted. How long its texts may be is a setting, so the router narrows them."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"user_name": _NAME, "description": _DESCRIPTION}]},
    )

    user_name: Annotated[Text, Field(description="Who applies. Space around it is removed.")]
    description: Annotated[Text, Field(description="What for. Space around it is removed.")]


class Application(BaseModel):
    """An application as it was stored. Its JSON is the answer to a request and the value of its event."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": 1,
                    "user_name": _NAME,
                    "description": _DESCRIPTION,
                    "created_at": "2026-11-21T09:30:00.123456Z",
                }
            ]
        },
    )

    id: ApplicationId
    user_name: Annotated[str, Field(description="Who applied.")]
    description: Annotated[str, Field(description="What for.")]
    created_at: Annotated[datetime, Field(description="When it was stored, by the clock of the database (UTC).")]
