"""Applications over HTTP."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.api import kinds, problems
from app.api.dependencies import DatabaseDependency
from app.api.group_commit import GroupCommit
from app.api.idempotency import REPLAYED, Answer, OnceDependency
from app.api.json_body import JsonRoute
from app.api.paging import LINK, Page, links, page_of, page_size
from app.applications import listing, schemas, service
from app.applications.queries import ListingQuery
from app.applications.schemas import Application, ApplicationId, Text
from app.settings import Settings

PATH = "/applications"

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
        responses=problems.documented(*kinds.GUARDED, kinds.INVALID_REQUEST, kinds.UNAVAILABLE),
    )

    class NewApplication(schemas.NewApplication):
        user_name: Annotated[Text, Field(max_length=settings.user_name_max_length, description="Who applies; trimmed.")]
        description: Annotated[
            Text, Field(max_length=settings.description_max_length, description="What for; trimmed.")
        ]

    class Listing(ListingQuery):
        size: int = page_size(settings.page_size_max)

    async def create(session: AsyncSession, news: Sequence[service.NewApplication]) -> list[Answer]:
        created = await service.create(session, news, topic=settings.applications_topic, source=settings.event_source)
        return [_created(each) for each in created]

    group = GroupCommit(create)

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
                kinds.HOST_REFUSED,
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
        return await once.write_grouped(group, service.NewApplication(new.user_name, new.description))

    @router.get(
        "",
        responses={
            status.HTTP_200_OK: {"headers": {"Link": LINK}},
            **problems.documented(kinds.NOT_FOUND, kinds.INVALID_REQUEST, kinds.TOO_SLOW),
        },
        summary="List applications",
    )
    async def list_applications(
        asked: Annotated[Listing, Query()], database: DatabaseDependency, response: Response
    ) -> Page[Application]:
        """Newest first, unless told otherwise. A page after the last is empty; `Link` leads to the next one."""
        wanted, limit = asked.wanted(), settings.search_deadline
        if asked.after is not None:
            listed = await database.read(
                partial(listing.list_after, wanted=wanted, after=asked.after, size=asked.size, limit=limit)
            )
        else:
            listed = await database.read(
                partial(
                    listing.list_page,
                    wanted=wanted,
                    page=asked.page,
                    size=asked.size,
                    count=asked.count == "capped",
                    limit=limit,
                )
            )
        page = page_of(
            listed.applications,
            total=listed.total,
            page=None if asked.after is not None else asked.page,
            size=asked.size,
            at_least=listed.at_least,
        )
        last = listed.applications[-1].id if listed.more else None
        response.headers["Link"] = links(PATH, asked.filters(), page, after=last)
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


def _created(created: service.Created) -> Answer:
    headers = {
        "Content-Type": "application/json",
        "Location": f"{PATH}/{created.application.id}",
        "Outbox-Message-Id": str(created.message.message_id),
    }
    return Answer(status.HTTP_201_CREATED, headers, created.message.payload or b"")
