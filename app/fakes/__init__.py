"""Stand-ins for Dadata and YandexGPT that speak as those do, for running and testing without keys or money.

Nothing else here knows them: they are reached over HTTP, by URLs in the settings.
"""

from app.fakes.serving import Fakes, serve

__all__ = ["Fakes", "serve"]
