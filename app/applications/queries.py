"""What `GET /applications` can be asked for."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.api.kinds import INVALID_REQUEST
from app.api.paging import DEFAULT_SIZE, LAST_PAGE, REACH, reaches
from app.api.problems import FieldError, Refused
from app.applications.listing import Wanted
from app.applications.schemas import ApplicationId, Text

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*")


def _iso(value: object) -> object:
    """Numbers would be read as seconds since 1970."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise PydanticCustomError("moment", "must be a moment like 2026-11-21T09:30:00Z (a + is written %2B)")
    return value


# No name is longer (USER_NAME_MAX_LENGTH is at most that).
Name = Annotated[Text, Field(max_length=200)]
# What PostgreSQL and the driver can hold, whatever the offset.
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_iso),
    Field(ge=datetime(1, 1, 2, tzinfo=UTC), le=datetime(9999, 12, 30, tzinfo=UTC), examples=["2026-11-21T09:30:00Z"]),
]


class ListingQuery(BaseModel):
    """The query, apart from the limits that are settings."""

    model_config = ConfigDict(extra="forbid")

    user_name: Annotated[Name | None, Field(description="Only of this user, ignoring case.")] = None
    user_name__like: Annotated[
        Name | None, Field(description="Only of users with this in their name, ignoring case; no wildcards.")
    ] = None
    user_name__startswith: Annotated[
        Name | None, Field(description="Only of users whose name starts so, ignoring case.")
    ] = None
    created_from: Annotated[Moment | None, Field(description="Only those stored at or after this moment.")] = None
    created_before: Annotated[Moment | None, Field(description="Only those stored before this moment.")] = None
    order: Annotated[Literal["newest", "oldest"], Field(description="Which come first.")] = "newest"
    count: Annotated[
        Literal["capped", "none"],
        Field(description=f"`capped`: count up to {REACH}; `none`: do not count, which is faster."),
    ] = "capped"
    after: Annotated[
        ApplicationId | None,
        Field(description="Instead of a page's number: what follows this application, however far; not counted."),
    ] = None
    page: Annotated[
        int,
        Field(ge=1, le=LAST_PAGE, description=f"Number of the page, from 1; at most {REACH} items may lie before it."),
    ] = 1
    size: Annotated[int, Field(ge=1, description="Most items of a page.")] = DEFAULT_SIZE

    def wanted(self) -> Wanted:
        """What to look for. Raises Refused when the page lies too far, or was given in two ways."""
        if self.after is not None and "page" in self.model_fields_set:
            raise Refused(INVALID_REQUEST, errors=[FieldError("query", "page", "does not go with `after`")])
        if not reaches(self.page, self.size):
            message = f"has more than {REACH} items before it: follow rel=next of Link, or use `after`"
            raise Refused(INVALID_REQUEST, errors=[FieldError("query", "page", message)])
        return Wanted(
            user_name=self.user_name,
            like=self.user_name__like,
            starts_with=self.user_name__startswith,
            created_from=self.created_from,
            created_before=self.created_before,
            oldest_first=self.order == "oldest",
        )

    def filters(self) -> dict[str, str]:
        """The query without its page, for links to other pages."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude={"page", "size", "after"})
