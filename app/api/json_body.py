"""Guarded routes, whose body, if they have one, is JSON, read strictly."""

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.api import strict_json
from app.api.guard import Guard
from app.api.kinds import INVALID_REQUEST, MALFORMED_REQUEST, UNSUPPORTED_MEDIA_TYPE
from app.api.problems import FieldError, Refused, field_path


class _JsonRequest(Request):
    """A request whose body was read and checked before anything else is done."""

    async def read(self) -> None:
        _check_type(self)
        try:
            self._value = strict_json.parse(await self.body())
        except strict_json.NotJson as error:
            fields = [] if error.name is None else [FieldError("body", field_path([error.name]), str(error))]
            raise Refused(MALFORMED_REQUEST, str(error), errors=fields) from None
        except strict_json.NotStorable as error:
            errors = [FieldError("body", field_path(error.path), str(error))]
            raise Refused(INVALID_REQUEST, errors=errors) from None

    async def json(self) -> Any:
        """What the framework takes as the body."""
        return self._value


def _check_type(request: Request) -> None:
    # An encoding would have to be undone before the size is limited; a form or text/plain can be sent by any
    # web page.
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not accepted")
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    if header.get_content_type() != "application/json":
        raise Refused(UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
    if header.get_content_charset("utf-8") != "utf-8":
        raise Refused(UNSUPPORTED_MEDIA_TYPE, "the charset must be utf-8")


class JsonRoute(APIRoute):
    """`APIRouter(route_class=JsonRoute)`: requests go through `app.api.guard`, and bodies are JSON as
    `app.api.strict_json` accepts it, or refused.

    The framework's own reader takes the last of repeated names, UTF-16 and NaN, and fails at a lone
    surrogate.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, given a request that was admitted (`app.api.guard`) and read strictly."""
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def guarded(request: Request) -> Response:
            guard: Guard = request.app.state.guard
            await guard.admit(request)
            if has_body:
                request = checked = _JsonRequest(request.scope, request.receive)
                await checked.read()
            with guard.working():
                return await handle(request)

        return guarded
