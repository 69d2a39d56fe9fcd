"""The request that the running task works for, for whoever has to say where something came from."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["current_request"]

current_request: ContextVar[Scope | None] = ContextVar("current_request", default=None)
"""The ASGI scope, with ``request_id`` in its state; the middleware sets it, and tasks begun for a request keep it."""
