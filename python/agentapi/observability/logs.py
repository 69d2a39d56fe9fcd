"""Logs to standard error: one line an event, structlog's and the standard library's in one format, redacted.

Events are static snake_case names with their data in keywords. Loggers of libraries are raised to the level
at which they stop repeating URLs, headers and messages: httpx2 logs every URL with its query at INFO, mcp
whole messages at DEBUG, and uvicorn's access log gives way to the one ``request`` line of the middleware.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import structlog

from agentapi.observability.redaction import redact
from agentapi.observability.request_context import name_request
from agentapi.observability.request_lines import RequestLines, write_requests_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from agentapi.settings import Settings

__all__ = ["configure_from_settings", "configure_logging"]

_FLOORS: Final = {
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
    "mcp": logging.INFO,
    # It would log what an upstream sent, word for word; what matters of it the gateway says itself.
    "mcp.client": logging.CRITICAL,
    "asyncpg": logging.INFO,
    # It would log messages of what failed; the queue tells of its jobs itself.
    "pgqueuer": logging.CRITICAL,
    "asyncio": logging.INFO,
    "uvicorn.access": logging.CRITICAL,
}
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
_UVICORN: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def configure_from_settings(settings: Settings) -> None:
    """Configure logging from ``log_level`` and ``log_format``."""
    configure_logging(level=settings.log_level, output=settings.log_format)


def configure_logging(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    output: Literal["json", "console"] = "json",
    stream: TextIO | None = None,
) -> None:
    """Set up logging for the process, replacing what was set up before.

    Run uvicorn with ``log_config=None``, which would otherwise put its own handlers back.

    Args:
        level: Least level that is written.
        output: One JSON object a line, or text for people.
        stream: Where to; standard error by default.
    """
    target = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_request,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = [_render_exception, redact, _renderer(output)]
    writer = structlog.WriteLogger(target)
    processors = [*shared, *final]
    write_requests_by(processors, RequestLines(writer.msg) if output == "json" and number <= logging.INFO else None)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # One writer for all: each would only look for the same lock again.
        logger_factory=lambda *_: writer,
        # A cached logger would keep the configuration it first saw.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
            keep_stack_info=False,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for name, floor in _FLOORS.items():
        logging.getLogger(name).setLevel(max(floor, number))
    logging.captureWarnings(capture=True)


def _renderer(output: Literal["json", "console"]) -> Callable[..., Any]:
    if output == "json":
        return _render_json
    return structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)


def _render_json(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
    """Write an entry of plain values, which ``redact`` leaves; ``json.dumps`` would make an encoder for each."""
    return _ENCODER.encode(event_dict)


def _render_exception(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Turn an exception into text: types, messages and places, never the values of local variables."""
    return structlog.processors.format_exc_info(logger, method, event_dict)
