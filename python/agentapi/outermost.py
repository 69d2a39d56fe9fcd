"""What stands around the whole application: an answer for a defect of ours, and a sentence for a start that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from agentapi.errors import AgentAPIError, first_leaf
from agentapi.problems import problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CrashGuard", "PlainStartupFailure"]

_log = structlog.get_logger(__name__)


class PlainStartupFailure:
    """Tells the server in one sentence why the gateway did not start, where that is a person's to mend."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan with a failure of its start in words."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: Message | None = None

        async def hold_failure(message: Message) -> None:
            nonlocal failed
            if message["type"] == "lifespan.startup.failed":
                failed = message
            else:
                await send(message)

        try:
            await self._app(scope, receive, hold_failure)
        except BaseException as error:
            if failed is not None:
                cause = first_leaf(error)
                await send({**failed, "message": cause.message} if isinstance(cause, AgentAPIError) else failed)
            raise


class CrashGuard:
    """Answers for a defect of ours, inside the request's context: the log has it, the client need not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; answer for what was raised before an answer began."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            _log.exception("request_crashed")
            answer = problem_response(AgentAPIError("Something went wrong here; the log has the details."))
            await answer(scope, receive, send)
