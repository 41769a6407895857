"""Applications over HTTP."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.api import kinds, problems
from app.api.dependencies import DatabaseDependency
from app.api.idempotency import REPLAYED, Answer, OnceDependency
from app.api.json_body import JsonRoute
from app.api.paging import DEFAULT_SIZE, LAST_PAGE, Page, links, page_of
from app.applications import schemas, service
from app.applications.schemas import Application, ApplicationId, Text
from app.settings import Settings

PATH = "/applications"

_LINK = {"description": "First, last, previous and next page (RFC 8288).", "schema": {"type": "string"}}
_LOCATION = {"description": "Where the application can be read.", "schema": {"type": "string"}}
_MESSAGE_ID = {
    "description": "Id of the message that tells of it: the header `ce_id` in Kafka.",
    "schema": {"type": "string", "format": "uuid"},
}
_REPLAYED = {
    "description": "`true`: this is the kept answer of an earlier request with the same Idempotency-Key.",
    "schema": {"type": "string", "const": "true"},
}


def create_router(settings: Settings) -> APIRouter:
    """The routes of applications, with the limits of the settings."""
    router = APIRouter(
        prefix=PATH,
        tags=["applications"],
        route_class=JsonRoute,
        responses=problems.documented(kinds.INVALID_REQUEST, kinds.UNAVAILABLE),
    )

    class NewApplication(schemas.NewApplication):
        user_name: Annotated[Text, Field(max_length=settings.user_name_max_length, description="Who applies; trimmed.")]
        description: Annotated[
            Text, Field(max_length=settings.description_max_length, description="What for; trimmed.")
        ]

    class Listing(BaseModel):
        model_config = ConfigDict(extra="forbid")

        user_name: Annotated[
            Text | None,
            Field(max_length=settings.user_name_max_length, description="Only of this user, ignoring case."),
        ] = None
        page: Annotated[int, Field(ge=1, le=LAST_PAGE, description="Number of the page, from 1.")] = 1
        size: Annotated[int, Field(ge=1, le=settings.page_size_max, description="Most items of a page.")] = min(
            DEFAULT_SIZE, settings.page_size_max
        )

    @router.post(
        "",
        status_code=status.HTTP_201_CREATED,
        response_model=Application,
        response_description="It is stored, and its event will reach Kafka.",
        responses={
            status.HTTP_201_CREATED: {
                "headers": {"Location": _LOCATION, "Outbox-Message-Id": _MESSAGE_ID, REPLAYED: _REPLAYED}
            },
            **problems.documented(
                kinds.MALFORMED_REQUEST,
                kinds.IDEMPOTENCY_KEY_INVALID,
                kinds.IDEMPOTENCY_KEY_REQUIRED,
                kinds.IN_PROGRESS,
                kinds.BODY_TOO_LARGE,
                kinds.UNSUPPORTED_MEDIA_TYPE,
                kinds.INVALID_REQUEST,
                kinds.IDEMPOTENCY_KEY_REUSED,
            ),
        },
        summary="Apply",
    )
    async def create_application(new: NewApplication, once: OnceDependency) -> Response:
        """Store an application and owe the event `application.created` to Kafka, in one commit."""

        async def work(session: AsyncSession) -> Answer:
            created = await service.create(
                session,
                user_name=new.user_name,
                description=new.description,
                topic=settings.applications_topic,
                source=settings.event_source,
            )
            headers = {
                "Content-Type": "application/json",
                "Location": f"{PATH}/{created.application.id}",
                "Outbox-Message-Id": str(created.message.message_id),
            }
            return Answer(status.HTTP_201_CREATED, headers, created.message.payload or b"")

        return await once.write(work)

    @router.get(
        "",
        responses={status.HTTP_200_OK: {"headers": {"Link": _LINK}}},
        summary="List applications",
    )
    async def list_applications(
        listing: Annotated[Listing, Query()], database: DatabaseDependency, response: Response
    ) -> Page[Application]:
        """Newest first. A page after the last is empty."""
        listed = await database.read(
            partial(service.list_page, user_name=listing.user_name, page=listing.page, size=listing.size)
        )
        page = page_of(listed.applications, total=listed.total, page=listing.page, size=listing.size)
        query = {} if listing.user_name is None else {"user_name": listing.user_name}
        response.headers["Link"] = links(PATH, query, page)
        return page

    @router.get(
        "/{id}",
        responses=problems.documented(kinds.NOT_FOUND),
        summary="Read one application",
    )
    async def read_application(
        application_id: Annotated[ApplicationId, Path(alias="id")], database: DatabaseDependency
    ) -> Application:
        """As it was stored."""
        return await database.read(partial(service.get, application_id=application_id))

    return router
