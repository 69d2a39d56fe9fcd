"""The request that the running task works for, for whoever has to say where something came from."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope
    from structlog.typing import EventDict, WrappedLogger

__all__ = ["current_request", "name_request"]

current_request: ContextVar[Scope | None] = ContextVar("current_request", default=None)
"""The ASGI scope, with ``request_id`` in its state; the middleware sets it, and tasks begun for a request keep it."""


def name_request(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Add the id of the running task's request to a log entry; a structlog processor."""
    scope = current_request.get()
    if scope is not None:
        event_dict.setdefault("request_id", scope["state"]["request_id"])
    return event_dict
