"""What HTTP asks of every route of the API, in front of them all: preconditions, and how answers may be kept."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from agentapi.errors import PreconditionFailedError
from agentapi.preconditions import is_known

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentapi.operation import Operation

__all__ = ["EXPOSED", "Conventions"]

EXPOSED: Final = (
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-ID",
)
"""What pages of allowed origins may read of an answer besides what any may."""

_CHANGES: Final = frozenset({"PUT", "PATCH", "DELETE"})
_READS: Final = frozenset({"GET", "HEAD"})
_OF_CONTENT: Final = ("content-length", "content-type")


class Conventions:
    """A route that keeps to them.

    Args:
        app: The route.
        operation: What it says of itself.
        is_private: Whether answers depend on who asks.
        elsewhere: Addresses that its path would match too, and that are other routes' own.
    """

    def __init__(
        self, app: ASGIApp, operation: Operation, *, is_private: bool, elsewhere: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._has_versions = operation.versioned == "change"
        self._is_private = is_private
        self._elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["path"] in self._elsewhere:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)
        asked = Headers(scope=scope)
        method = scope["method"]
        if not self._has_versions and method in _CHANGES and asked.get("if-match", "*").strip() != "*":
            # What has no versions can have none of those that are named (RFC 9110, section 13.1.1).
            raise PreconditionFailedError("This has no versions that a change could be made to.")
        left_out = False

        async def observed(message: Message) -> None:
            nonlocal left_out
            if message["type"] == "http.response.start":
                message = {**message, "headers": list(message["headers"])}
                headers = MutableHeaders(scope=message)
                if self._is_private:
                    headers.add_vary_header("Authorization")
                    headers.setdefault("cache-control", "private, no-cache")
                tag = headers.get("etag")
                if tag is not None and method in _READS and message["status"] == HTTPStatus.OK and is_known(asked, tag):
                    left_out = True
                    message["status"] = HTTPStatus.NOT_MODIFIED.value
                    for name in _OF_CONTENT:
                        del headers[name]
            elif left_out:
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, observed)
