"""What the connection test meets on loopback: one good MCP server of the SDK, and all kinds of others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(slots=True)
class Seen:
    """The headers of the requests that a server was sent."""

    headers: list[dict[str, str]] = field(default_factory=list)


class _Record:
    def __init__(self, app: ASGIApp, seen: Seen) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await self._app(scope, receive, send)


def sdk_server() -> MCPServer:
    server = MCPServer("sdk-test", version="4.5.6", instructions="Be kind.", subscriptions=False)

    @server.tool()
    def echo(text: str) -> str:
        """Say it back."""
        return text

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @server.resource("test://static")
    def static() -> str:
        """A text."""
        return "text"

    @server.resource("test://item/{id}")
    def item(id: str) -> str:  # noqa: A002 - the template's name
        """One of many."""
        return id

    @server.prompt()
    def greet(name: str) -> str:
        """Greet."""
        return f"Hello {name}"

    return server


def mcp_app(seen: Seen) -> Starlette:
    """The SDK's server over Streamable HTTP at ``/mcp``."""
    app = sdk_server().streamable_http_app(stateless_http=True, json_response=True)
    app.user_middleware.append(Middleware(_Record, seen=seen))
    return app


def sse_app() -> Starlette:
    """The SDK's server over HTTP+SSE at ``/sse``."""
    return sdk_server().sse_app()


async def _hang(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def _unauthorized(_: Request) -> Response:
    return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})


async def _page(_: Request) -> Response:
    return PlainTextResponse("It works!")


async def _to_metadata(_: Request) -> Response:
    return RedirectResponse("http://169.254.169.254/latest/meta-data", status_code=307)


def _status(code: int) -> Route:
    async def answer(_: Request) -> Response:
        return Response("internal detail 10.1.2.3", status_code=code)

    return Route(f"/status/{code}", answer, methods=["GET", "POST"])


def other_app() -> Starlette:
    """A server that speaks HTTP and not MCP."""
    methods = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/hang", _hang, methods=methods),
            Route("/unauthorized", _unauthorized, methods=methods),
            Route("/page", _page, methods=methods),
            Route("/redirect", _to_metadata, methods=methods),
            *(_status(code) for code in (403, 405, 418, 429, 500, 503)),
        ]
    )
