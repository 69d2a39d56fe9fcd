"""MCP servers made with the official SDK, to run as a process of their own.

``python -m support.sdk_server FLAVOUR`` listens on a free loopback port, prints ``{"port": N}`` once it
serves and ends with its standard input. A tool called with the same
arguments answers the same.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import sys
from typing import Annotated, TypedDict

import uvloop
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)
from pydantic import Field

from support.serving import serve

PIXEL = base64.b64encode(bytes(range(64))).decode()
LONG = "summarise_the_quarterly_figures_of_every_branch_office_of_the_company"


class Weather(TypedDict):
    """Structured output whose values JSON libraries like to change."""

    city: str
    temperature: float
    station: int
    offset: float


def _add_tools(server: MCPServer) -> None:
    @server.tool(
        title="Echo",
        annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True),
        meta={"com.example/origin": "tests"},
    )
    def echo(message: Annotated[str, Field(description="What to say back: \u00e4\u6f22\U0001f600")]) -> str:
        """Say it back."""
        return message

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two integers."""
        return a + b

    @server.tool()
    def weather(city: str) -> Weather:
        """Tell the weather, with a number above 2**53 and floats that are whole."""
        return {"city": city, "temperature": 21.0, "station": 9_007_199_254_740_993, "offset": -0.5}

    @server.tool(structured_output=False)
    def picture() -> CallToolResult:
        """Return one of each kind of content, annotated, with metadata."""
        return CallToolResult(
            content=[
                TextContent(text="a picture", _meta={"com.example/part": 1}),
                ImageContent(data=PIXEL, mime_type="image/png"),
                EmbeddedResource(
                    resource=TextResourceContents(uri="test://note", mime_type="text/plain", text="a\x00b\u2028c")
                ),
            ],
            _meta={"com.example/trace": {"depth": [1, 2, {"x": None}]}},
        )

    @server.tool()
    def fail(reason: str) -> str:
        """Fail as a tool does."""
        raise ToolError(reason)

    @server.tool()
    def refuse(code: int) -> str:
        """Fail as the protocol does, with a code and data of the server's own."""
        raise MCPError(code=code, message="refused by the upstream", data={"hint": ["try", "later"]})

    @server.tool(structured_output=False)
    def large(size: int) -> str:
        """Return ``size`` characters."""
        return "0123456789abcdef" * (size // 16)

    @server.tool(structured_output=False)
    def request_meta(ctx: Context) -> str:
        """Return the _meta of the request as JSON."""
        return json.dumps(dict(ctx.request_context.meta or {}), default=str)


def _add_waiting(server: MCPServer) -> None:
    abandoned_calls = 0

    @server.tool()
    async def wait_forever() -> str:
        """Never answer."""
        nonlocal abandoned_calls
        try:
            await asyncio.Event().wait()
        finally:
            abandoned_calls += 1
        raise AssertionError

    @server.tool()
    def abandoned() -> int:
        """Return how many calls of ``wait_forever`` were given up."""
        return abandoned_calls


def _add_question(server: MCPServer) -> None:
    @server.tool(structured_output=False)
    async def roots(ctx: Context) -> str:
        """Ask the client for its roots, as a server of the older revisions can, and return them."""
        return str((await ctx.session.list_roots()).model_dump_json())


def _build(flavour: str) -> MCPServer:
    # No list change to listen for, so that two listings differ in nothing.
    server = MCPServer(f"sdk-{flavour}", version="1.2.3", instructions="For tests.", subscriptions=False)
    if flavour == "long":
        for ending in ("north", "south"):
            server.add_tool(lambda ending=ending: f"{ending}!", name=f"{LONG}_{ending}", description=ending)
        server.add_tool(lambda: "dotted", name="name.with-dots_and.dashes", description="An unusual name.")
    else:
        _add_tools(server)
        _add_waiting(server)
    if flavour == "sse":
        _add_question(server)
    return server


async def _serve(flavour: str) -> None:
    server = _build(flavour)
    app = (
        server.sse_app()
        if flavour == "sse"
        else server.streamable_http_app(stateless_http=flavour == "fast", json_response=flavour == "fast")
    )
    await serve(app)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("flavour", choices=["http", "sse", "fast", "long"])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    uvloop.run(_serve(parser.parse_args().flavour))


if __name__ == "__main__":
    main()
