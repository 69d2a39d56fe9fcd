"""The outermost middleware: a request id, and one log line for each request."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Final

import structlog

from agentapi.observability.request_context import current_request
from agentapi.observability.request_lines import log_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["RequestContextMiddleware"]

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADER: Final = b"x-request-id"
_MAX_PATH: Final = 256
_CLIENT_CLOSED: Final = 499
"""nginx's status for a client that left before the response began; it is logged and never sent."""


class RequestContextMiddleware:
    """Name every request and log it once, when its response has ended.

    The line holds the method, the path template of the route (or the path, without the query, where no route
    is known), status, duration, bytes sent and who called. What inner middleware leaves in ``scope["state"]``
    is read for that: ``principal`` (an ``agentapi.principal.Principal``) and ``workspace``. Headers and the
    query never are. ``fields`` there are header fields that the response has whoever writes it.
    """

    def __init__(self, app: ASGIApp, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._clock = clock
        # To bind it for each line would take longer than to render it.
        self._log = structlog.get_logger(__name__).bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = self._clock()
        status: int | None = None
        sent = 0

        def observed(message: Message) -> Awaitable[None]:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [pair for pair in message.get("headers", ()) if pair[0].lower() != _HEADER]
                more = scope["state"].get("fields", ())
                message = {**message, "headers": [*own, *more, (_HEADER, request_id.encode())]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            return send(message)

        failed: str | None = None
        served = current_request.set(scope)
        try:
            await self._app(scope, receive, observed)
        except BaseException as error:
            failed = type(error).__name__
            raise
        finally:
            current_request.reset(served)
            elapsed_ms = round((self._clock() - started) * 1000, 2)
            fallback = 500 if failed is not None and failed != "CancelledError" else _CLIENT_CLOSED
            state = scope["state"]
            principal = state.get("principal")
            log_request(
                self._log,
                request_id,
                status or fallback,
                elapsed_ms,
                sent,
                scope["method"],
                _path(scope),
                getattr(principal, "org_slug", None),
                state.get("workspace"),
                getattr(principal, "user_id", None),
                failed,
            )


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == _HEADER]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return bytes(given[0]).decode()
    # It names a request and guards nothing; random bytes of the kernel would cost a system call.
    return f"{random.getrandbits(128):032x}"


def _path(scope: Scope) -> str:
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        return template
    path = str(scope["path"])[:_MAX_PATH]
    return "".join(char if char.isprintable() else "?" for char in path)
