"""Dadata's cleaner of phones and emails (dadata.ru/api/clean/phone, /api/clean/email). Billed a record."""

from datetime import timedelta

import httpx2

from app.settings import Settings
from app.tasks.outcomes import Answered, Blocked, Busy, Failed, Outcome, Question, Refused, Unknown
from app.tasks.providers.http import Lost, NotSent, Reply, exchange

_REAL = "https://cleaner.dadata.ru/api/v1"
_FAKE_PATH = "/api/v1"
_PAUSE = timedelta(seconds=1)  # the limits are a second's


class Dadata:
    """The provider of tasks `phone` and `email`."""

    def __init__(self, client: httpx2.AsyncClient, settings: Settings) -> None:
        self._client = client
        self._url, self.is_fake = locate(settings)
        self._deadline = 2 * settings.dadata_timeout  # one to connect, one to answer
        self._headers = {}
        if settings.dadata_api_key and settings.dadata_secret_key and not self.is_fake:
            self._headers = {
                "authorization": f"Token {settings.dadata_api_key.get_secret_value()}",
                "x-secret": settings.dadata_secret_key.get_secret_value(),
            }

    async def ask(self, question: Question) -> Outcome:
        """Clean one value. A value that makes no sense is answered, with a `qc` that says so."""
        result = await exchange(
            self._client,
            "POST",
            f"{self._url}/clean/{question.task_type}",
            headers=self._headers,
            content=[question.text],
            deadline=self._deadline,
        )
        match result:
            case NotSent(code):
                return Failed(code)
            case Lost(code):
                return Unknown(code)
            case Reply():
                return _read(result)


def locate(settings: Settings) -> tuple[str, bool]:
    """Where Dadata is, and whether that is the fake."""
    if settings.dadata_url is not None:
        return str(settings.dadata_url).rstrip("/"), False
    if settings.dadata_api_key and settings.dadata_secret_key:
        return _REAL, False
    return str(settings.fakes_url).rstrip("/") + _FAKE_PATH, True


def _read(reply: Reply) -> Outcome:
    code = f"HTTP_{reply.status}"
    match reply.status:
        case 200:
            match reply.body:
                # By position: the echoed source may differ from what was sent.
                case [{"qc": _} as record]:
                    return Answered(record)
            return Unknown("UNREADABLE_ANSWER")
        case 400 | 405 | 413 | 422:
            return Refused(code)
        case 429:
            return Busy(code, reply.retry_after or _PAUSE)
        case status if status >= 500:  # noqa: PLR2004 - the class of HTTP's statuses
            return Failed(code, reply.retry_after)
    # 401 a wrong key, 402 and 403 no money or no confirmed address, 3xx and 404 a wrong URL.
    return Blocked(code)
