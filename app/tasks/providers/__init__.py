"""The third parties over HTTP. Only this package imports the HTTP client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from app.settings import Settings
from app.tasks.outcomes import Provider, ProviderName
from app.tasks.providers.dadata import Dadata
from app.tasks.providers.http import connect
from app.tasks.providers.yandexgpt import YandexGpt

__all__ = ["connect_all"]


@asynccontextmanager
async def connect_all(settings: Settings) -> AsyncIterator[Mapping[ProviderName, Provider]]:
    """Clients of all third parties, or of the fakes in their place, until the end of the block."""
    async with AsyncExitStack() as stack:
        dadata = await stack.enter_async_context(
            connect(settings, slots=settings.dadata_slots, timeout=settings.dadata_timeout)
        )
        yandexgpt = await stack.enter_async_context(
            connect(settings, slots=settings.yandexgpt_slots, timeout=settings.yandexgpt_timeout)
        )
        yield {"dadata": Dadata(dadata, settings), "yandexgpt": YandexGpt(yandexgpt, settings)}
