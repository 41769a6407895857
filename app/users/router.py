"""Users over HTTP: only to look. They are requested over Kafka."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from pydantic import BaseModel, ConfigDict, Field

from app.api import kinds, problems
from app.api.dependencies import DatabaseDependency
from app.api.json_body import JsonRoute
from app.api.paging import LINK, Page, PageNumber, links, page_of, page_size
from app.settings import Settings
from app.users import service
from app.users.schemas import Email, User, UserId

PATH = "/users"


def create_router(settings: Settings) -> APIRouter:
    """The routes of users, with the limits of the settings."""
    router = APIRouter(
        prefix=PATH,
        tags=["users"],
        route_class=JsonRoute,
        responses=problems.documented(*kinds.GUARDED, kinds.INVALID_REQUEST, kinds.UNAVAILABLE),
    )

    class Listing(BaseModel):
        model_config = ConfigDict(extra="forbid")

        email: Annotated[Email | None, Field(description="Only with this email, ignoring case.")] = None
        page: PageNumber = 1
        size: int = page_size(settings.page_size_max)

    @router.get("", responses={status.HTTP_200_OK: {"headers": {"Link": LINK}}}, summary="List users")
    async def list_users(
        listing: Annotated[Listing, Query()], database: DatabaseDependency, response: Response
    ) -> Page[User]:
        """Newest first. A page after the last is empty."""
        listed = await database.read(
            partial(service.list_page, email=listing.email, page=listing.page, size=listing.size)
        )
        page = page_of(listed.users, total=listed.total, page=listing.page, size=listing.size)
        response.headers["Link"] = links(PATH, {} if listing.email is None else {"email": listing.email}, page)
        return page

    @router.get("/{id}", responses=problems.documented(kinds.NOT_FOUND), summary="Read one user")
    async def read_user(user_id: Annotated[UserId, Path(alias="id")], database: DatabaseDependency) -> User:
        """As it was stored."""
        return await database.read(partial(service.get, user_id=user_id))

    return router
