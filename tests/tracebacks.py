"""How tests draw tracebacks."""

import structlog


def draw_plainly() -> None:
    """Of tracebacks only what is read: drawing all local variables takes seconds, in which the event loop stands."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )
