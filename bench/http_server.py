"""The API with the handlers that it is compared with, in a process of its own: `python -m bench.http_server`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

import uvloop
from fastapi import APIRouter, Depends, FastAPI, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import BigInteger, Identity, LargeBinary, Text, Uuid, func
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app import log
from app.api.group_commit import GroupCommit
from app.api.idempotency import Answer, OnceDependency
from app.api.json_body import JsonRoute
from app.applications import service
from app.applications.events import application_created
from app.applications.schemas import NewApplication
from app.db import create_engine
from app.main import create_app, serve
from app.outbox.message import new_message_id
from app.settings import Settings, load

CONTENDERS = {
    "nothing": "/bench/nothing",
    "without the message": "/bench/without",
    "with the message": "/applications",
    "textbook ORM": "/bench/orm",
}


class _Base(DeclarativeBase):
    pass


class _Application(_Base):
    __tablename__ = "bench_applications"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_name: Mapped[str] = mapped_column(Text, index=True)
    description: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class _Message(_Base):
    __tablename__ = "bench_outbox"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    message_id: Mapped[UUID] = mapped_column(Uuid, default=new_message_id)
    topic: Mapped[str] = mapped_column(Text)
    key: Mapped[bytes] = mapped_column(LargeBinary)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class _Read(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    user_name: str
    description: str
    created_at: datetime


def _ours(settings: Settings) -> APIRouter:
    """Through the same guard, the same strict reader and the same models."""
    router = APIRouter(prefix="/bench", route_class=JsonRoute)

    @router.post("/nothing", status_code=201)
    async def nothing(new: NewApplication) -> Response:
        body = {"id": 1, "user_name": new.user_name, "description": new.description}
        return Response(json.dumps(body).encode(), status_code=201, media_type="application/json")

    async def store(session: AsyncSession, news: Sequence[service.NewApplication]) -> list[Answer]:
        stored = [
            application_created(application, topic=settings.applications_topic, source=settings.event_source)
            for application in await service.store(session, news)
        ]
        return [Answer(201, {"Content-Type": "application/json"}, each.payload or b"") for each in stored]

    group = GroupCommit(store)

    @router.post("/without", status_code=201)
    async def without(new: NewApplication, once: OnceDependency) -> Response:
        return await once.write_grouped(group, service.NewApplication(new.user_name, new.description))

    return router


def _textbook(sessions: async_sessionmaker[AsyncSession]) -> APIRouter:
    """As tutorials write it: a session for each request, objects, a commit."""
    router = APIRouter(prefix="/bench")

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    @router.post("/orm", status_code=201)
    async def create(new: NewApplication, session: Annotated[AsyncSession, Depends(get_session)]) -> _Read:
        application = _Application(user_name=new.user_name, description=new.description)
        session.add(application)
        await session.flush()
        await session.refresh(application)
        created = _Read.model_validate(application)
        session.add(_Message(topic="bench", key=str(created.id).encode(), payload=created.model_dump_json().encode()))
        await session.commit()
        return created

    return router


async def _run(port: int) -> None:
    settings = load(_env_file=None, api_port=port)
    log.configure(settings)
    engine = create_engine(
        settings, role="bench", pool_size=settings.api_pool_size, deadline=settings.api_database_deadline
    )
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.create_all)
    app: FastAPI = create_app(settings, engine=engine)
    app.include_router(_ours(settings))
    app.include_router(_textbook(async_sessionmaker(engine)))
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings, app, stop, ready=lambda url: print(json.dumps(url), flush=True)))
    await asyncio.to_thread(sys.stdin.readline)  # until the bench closes it
    stop.set()
    await serving
    await engine.dispose()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(int(sys.argv[1])))
