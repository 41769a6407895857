"""Integration tasks over HTTP."""

import re
from datetime import timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response, status
from pydantic import BaseModel, ConfigDict, Field

from app.api import kinds, problems
from app.api.dependencies import DatabaseDependency
from app.api.guard import guard_of
from app.api.json_body import JsonRoute
from app.api.paging import LINK, Page, PageNumber, links, page_of, page_size
from app.settings import Settings
from app.tasks import service
from app.tasks.events import problem
from app.tasks.outcomes import TaskType
from app.tasks.schemas import Finished, Result, ResultId, State, Task, TaskNumber, Unfinished, new_task_type
from app.tasks.service import Accepted
from app.tasks.waiting import Waiting

PATH = "/api/integration_service"

_LOCATION = {"description": "Where to ask how far the task is.", "schema": {"type": "string"}}
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?(?=$|[,;\s])", re.IGNORECASE)

_TaskNumber = Annotated[TaskNumber, Path(description="Number of the task.")]
_ResultNumber = Annotated[ResultId, Path()]


def create_router(settings: Settings) -> APIRouter:
    """The routes of tasks, with the limits of the settings."""
    router = APIRouter(
        prefix=PATH,
        tags=["integration tasks"],
        route_class=JsonRoute,
        responses=problems.documented(*kinds.GUARDED, kinds.INVALID_REQUEST, kinds.UNAVAILABLE),
    )
    waiting = Waiting()
    NewTask = new_task_type(settings)  # noqa: N806 - a class

    class Pages(BaseModel):
        model_config = ConfigDict(extra="forbid")

        task_type: Annotated[TaskType | None, Field(description="Only of this type.")] = None
        page: PageNumber = 1
        size: int = page_size(settings.page_size_max)

    class TaskPages(Pages):
        state: Annotated[State | None, Field(description="Only in this state.")] = None

    @router.post(
        "",
        response_model=Finished,
        response_description="The task is done; its result can be read under `id`.",
        responses={
            status.HTTP_202_ACCEPTED: {
                "model": Unfinished,
                "description": "The task is stored, and its result will come.",
                "headers": {"Location": _LOCATION},
            },
            **problems.documented(
                kinds.MALFORMED_REQUEST,
                kinds.HOST_REFUSED,
                kinds.CONFLICT,
                kinds.BODY_TOO_LARGE,
                kinds.UNSUPPORTED_MEDIA_TYPE,
                kinds.TASK_FAILED,
            ),
        },
        summary="Send a task",
    )
    async def send_task(
        request: Request,
        new: NewTask,  # type: ignore[valid-type]  # made above, with the limits of the settings
        database: DatabaseDependency,
        prefer: Annotated[
            str | None, Header(description="`wait=N`: wait so many seconds for the result (RFC 7240).")
        ] = None,
    ) -> Response:
        """Store a task and wait for its result. Sending it again, here or through Kafka, gets the same result."""
        task = await database.write(partial(service.send, new=new, settings=settings))
        wait, asked_for = _wait(prefer, settings)
        if task.state in ("pending", "running") and wait > timedelta(0):
            # Who only waits takes no room from those whose requests are worked on.
            with guard_of(request).resting():
                task = await waiting.until_ended(database, task.task_id, wait) or task
        response = _answer(request, task)
        if asked_for:
            response.headers["Preference-Applied"] = f"wait={wait // timedelta(seconds=1)}"
        return response

    @router.get("", responses={status.HTTP_200_OK: {"headers": {"Link": LINK}}}, summary="List results")
    async def list_results(
        pages: Annotated[Pages, Query()], database: DatabaseDependency, response: Response
    ) -> Page[Result]:
        """Newest first. A page after the last is empty."""
        listed = await database.read(
            partial(service.list_results, task_type=pages.task_type, page=pages.page, size=pages.size)
        )
        page: Page[Result] = page_of(listed.items, total=listed.total, page=pages.page, size=pages.size)
        response.headers["Link"] = links(PATH, _filters(task_type=pages.task_type), page)
        return page

    @router.get("/tasks", responses={status.HTTP_200_OK: {"headers": {"Link": LINK}}}, summary="List tasks")
    async def list_tasks(
        pages: Annotated[TaskPages, Query()], database: DatabaseDependency, response: Response
    ) -> Page[Task]:
        """The highest number first. A page after the last is empty."""
        listed = await database.read(
            partial(service.list_tasks, task_type=pages.task_type, state=pages.state, page=pages.page, size=pages.size)
        )
        page: Page[Task] = page_of(listed.items, total=listed.total, page=pages.page, size=pages.size)
        filters = _filters(task_type=pages.task_type, state=pages.state)
        response.headers["Link"] = links(f"{PATH}/tasks", filters, page)
        return page

    @router.get("/tasks/{task_id}", responses=problems.documented(kinds.NOT_FOUND), summary="How far is a task?")
    async def read_task(task_id: _TaskNumber, database: DatabaseDependency) -> Task:
        """What was asked is not repeated."""
        return await database.read(partial(service.get_task, task_id=task_id))

    @router.get("/{result_id}", responses=problems.documented(kinds.NOT_FOUND), summary="Read one result")
    async def read_result(result_id: _ResultNumber, database: DatabaseDependency) -> Result:
        """As the provider gave it."""
        return await database.read(partial(service.get_result, result_id=result_id))

    return router


def _answer(request: Request, task: Accepted) -> Response:
    if task.result_id is not None:
        return Response(
            Finished(task_id=task.task_id, id=task.result_id).model_dump_json(), media_type="application/json"
        )
    location = {"Location": f"{PATH}/tasks/{task.task_id}"}
    if task.state == "failed" and task.error is not None:
        why = problem(task.error)
        return problems.answer(
            request.scope,
            kinds.TASK_FAILED,
            why.message,
            headers=location,
            extensions={"task_id": task.task_id, "code": why.code},
        )
    return Response(
        Unfinished(task_id=task.task_id, state=task.state).model_dump_json(),
        status.HTTP_202_ACCEPTED,
        headers=location,
        media_type="application/json",
    )


def _wait(prefer: str | None, settings: Settings) -> tuple[timedelta, bool]:
    """How long to wait, and whether the request said so. A preference that is none is passed over (RFC 7240, 2)."""
    match = _WAIT.search(prefer or "")
    if match is None:
        return settings.task_wait, False
    return min(timedelta(seconds=int(match[1])), settings.task_wait_max), True


def _filters(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}
