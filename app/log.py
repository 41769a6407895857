"""Structured logs: one JSON object a line, or a readable line on a terminal. Ids, never payloads."""

import logging
import sys
import time
import traceback
from pathlib import Path
from typing import TextIO

import structlog

from app.settings import Settings

_FRAMES = 8
"""Innermost places of a traceback that are logged."""


class _Quiet(logging.Filter):
    """At most one record a second of one place in the code.

    A Kafka client without a broker logs dozens of the same errors a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._last.get(place, -1.0) < 1.0:
            return False
        self._last[place] = now
        return True


def _where(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put an exception's classes and places into the event, never its text, which may quote rows or arguments."""
    info = event.pop("exc_info", None)
    error = sys.exception() if info is True else info[1] if isinstance(info, tuple) else info
    chain = []
    while isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        chain.append({"error": type(error).__name__, "at": places[-_FRAMES:]})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if chain:
        event["exception"] = chain
    return event


def configure(settings: Settings, stream: TextIO = sys.stderr) -> None:
    """Send our own logs and those of the libraries to `stream` in one format. Call once a process."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    console = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a logger that was used follows a process that configures its logs anew
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _where,
            renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # Libraries may quote addresses, arguments or rows below WARNING.
    for name in ("aiokafka", "asyncpg", "sqlalchemy", "alembic", "asyncio", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    quiet = _Quiet()
    for name in ("aiokafka", *(n for n in logging.root.manager.loggerDict if n.startswith("aiokafka."))):
        logging.getLogger(name).addFilter(quiet)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger: `log.get(__name__).info("application.created", application_id=1)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
