"""What stands around the whole application: answers for errors, and a sentence for a start that failed."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route

from agentapi.conventions import EXPOSED
from agentapi.errors import (
    AgentAPIError,
    InsufficientScopeError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    UnauthenticatedError,
    first_leaf,
)
from agentapi.gateway.endpoint import StraightToMcp
from agentapi.observability.middleware import RequestContextMiddleware
from agentapi.problems import bearer_challenge, problem_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentapi.settings import Settings

__all__ = ["Application", "CrashGuard", "PlainStartupFailure", "http_problem", "middleware", "nobody", "problem"]

_log = structlog.get_logger(__name__)


class Application(Starlette):
    """Starlette without a layer of its own for defects, for which ``CrashGuard`` answers here."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the layers, the application's own outermost."""
        app: ASGIApp = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        for layer, args, options in reversed(self.user_middleware):
            app = layer(app, *args, **options)
        return app


class PlainStartupFailure:
    """Tells the server in one sentence why the gateway did not start, where that is a person's to mend."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request, or the lifespan with a failure of its start in words."""
        # What only passes something on is no coroutine: each costs time, and memory for as long as a stream is open.
        return self._serve(scope, receive, send) if scope["type"] == "lifespan" else self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
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

        def watched(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            _log.exception("request_crashed")
            answer = problem_response(AgentAPIError("Something went wrong here; the log has the details."))
            await answer(scope, receive, send)


async def problem(_: Request, error: Exception) -> Response:
    """Answer for an error that was raised on purpose."""
    if not isinstance(error, AgentAPIError):
        raise AssertionError(error)  # noqa: TRY004 - the router calls this for AgentAPIError alone
    if error.log_context:
        _log.info("request_refused", code=error.code, **error.log_context)
    headers = {}
    if isinstance(error, UnauthenticatedError | InsufficientScopeError):
        headers["WWW-Authenticate"] = bearer_challenge(error)
    return problem_response(error, headers=headers)


async def http_problem(request: Request, error: Exception) -> Response:
    """Give what the router refuses the same form as everything else."""
    if not isinstance(error, HTTPException):
        raise AssertionError(error)  # noqa: TRY004 - the router calls this for HTTPException alone
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {"Allow": ", ".join(_methods(request))}
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
        return problem_response(MethodNotAllowedError("This route does not take that method."), headers=allowed)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(NotFoundError("There is no such route."))
    return problem_response(InvalidRequestError(error.detail))


def _methods(request: Request) -> list[str]:
    """Return what can be asked of the address; the router knows only of the first route that stands there."""
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    # What has the address for its own comes before what would match it, too.
    found = [route for route in routes if route.path == request.scope["path"]] or [
        route for route in routes if route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({"OPTIONS"}.union(*(route.methods or () for route in found)))


async def nobody(_: Request, __: Exception) -> Response:
    """Answer a client that has left."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


def middleware(settings: Settings, routes: Callable[[], Sequence[BaseRoute]]) -> list[Middleware]:
    """Return what stands around the application, outermost first; ``routes`` gives what it has once it has started."""
    around = [
        Middleware(PlainStartupFailure),
        Middleware(RequestContextMiddleware),
        Middleware(CrashGuard),
    ]
    if settings.allowed_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
        around.append(cors)
    around.append(Middleware(StraightToMcp, routes=routes))
    return around
