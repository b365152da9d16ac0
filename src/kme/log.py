"""log - structured logging, set up once per process: an event and its fields, one line each.

Modules write through the standard library (``_logger.info("paired", extra={...})``);
here is the one place that gives those records their shape.
"""

import logging
import sys
from enum import StrEnum
from typing import TextIO

import structlog


class LogFormat(StrEnum):
    """How a line of the log looks."""

    PLAIN = "plain"
    JSON = "json"


def set_up_logging(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Send all records of this process to one stream.

    Parameters
    ----------
    level
        ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
    log_format
        Plain lines for people, or JSON for machines.
    stream
        Where to write; standard error if None.
    """
    target = stream or sys.stderr
    renderer: structlog.typing.Processor
    if log_format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=target.isatty())
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These narrate every byte at DEBUG, bodies with keys among them.
    for chatty in ("httpcore", "httpx", "asyncio", "hpack", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
