"""A server of one era or both, over each transport, that writes down what happens to it.

``python -m support.era_server TRANSPORT ERA JOURNAL`` serves until its standard input ends. ``JOURNAL`` is a file
to which it appends a line of JSON for each thing that a test may want to know, whatever the transport.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import uvloop
from mcp.server.runner import serve_loop
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from mcp.types import UNSUPPORTED_PROTOCOL_VERSION
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from support.serving import serve
from support.wire_server import Request, WireServer, text

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.session import ServerSession
    from starlette.requests import Request as HttpRequest
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["WATCHED", "EraName", "TransportName"]

TransportName = Literal["http", "sse", "stdio"]
EraName = Literal["legacy", "modern", "both"]
WATCHED = "note://watched"
_MESSAGE = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class Journal:
    """A file with one line of JSON for each event."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **more: object) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event, **more}) + "\n")


def _add_tools(server: WireServer, journal: Journal) -> None:
    @server.tool("echo", "Say it back.", _MESSAGE, annotations={"readOnlyHint": True})
    async def echo(request: Request) -> dict[str, Any]:
        return text(request.arguments["message"])

    @server.tool("meta", "Say what came with the request.")
    async def meta(request: Request) -> dict[str, Any]:
        answer = text(json.dumps(request.params.get("_meta", {})))
        return {**answer, "_meta": {"com.example/answer": {"deep": [1, None]}}}

    @server.tool("fail", "Fail with a code and data of its own.")
    async def fail(_: Request) -> dict[str, Any]:
        raise MCPError(-32050, "refused by the upstream", {"hint": ["try", "later"]})

    @server.tool("count", "Report progress and log, three times each.")
    async def count(request: Request) -> dict[str, Any]:
        for number in (1, 2, 3):
            await request.progress(number, 3, f"step {number}")
            await request.log("info", {"step": number})
        return text("counted")

    @server.tool("link", "Point to a resource and embed one.")
    async def link(_: Request) -> dict[str, Any]:
        pointer = {"type": "resource_link", "uri": "note://static", "name": "static"}
        return {"content": [pointer, {"type": "resource", "resource": {"uri": WATCHED, "text": "x"}}]}

    @server.tool("wait", "Never answer.", _MESSAGE)
    async def wait(request: Request) -> dict[str, Any]:
        message = request.arguments["message"]
        journal.write("started", message=message)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            journal.write("cancelled", message=message)
            raise
        raise AssertionError


def _add_questions(server: WireServer) -> None:
    @server.tool("ask_user", "Ask the user for a name.")
    async def ask_user(request: Request) -> dict[str, Any]:
        form = {"message": "What is your name?", "requestedSchema": _NAME}
        answer = (await request.inputs({"who": ("elicitation/create", form)}, state="asked"))["who"]
        return text(f"{answer['action']}: {answer.get('content', {}).get('name')}; state {request.state}")

    @server.tool("ask_twice", "Ask the user for two names, one after the other.")
    async def ask_twice(request: Request) -> dict[str, Any]:
        def form(which: str) -> tuple[str, dict[str, Any]]:
            return "elicitation/create", {"message": f"The {which} name?", "requestedSchema": _NAME}

        first = request.state
        if first is None or first == "":
            first = (await request.inputs({"first": form("first")}))["first"]["content"]["name"]
        second = (await request.inputs({"second": form("second")}, state=first))["second"]["content"]["name"]
        return text(f"{first} and {second}")

    @server.tool("ask_model", "Have the client's model say something.")
    async def ask_model(request: Request) -> dict[str, Any]:
        messages = [{"role": "user", "content": {"type": "text", "text": "The capital of France?"}}]
        sampling = {"messages": messages, "maxTokens": 10}
        answer = (await request.inputs({"said": ("sampling/createMessage", sampling)}))["said"]
        return text(answer["content"]["text"])

    @server.tool("ask_roots", "Ask for the client's roots.")
    async def ask_roots(request: Request) -> dict[str, Any]:
        answer = (await request.inputs({"roots": ("roots/list", {})}))["roots"]
        return text(*(root["uri"] for root in answer["roots"]))


def _add_rest(server: WireServer) -> None:
    @server.resource("note://static", "static", "text/plain")
    async def static(request: Request) -> dict[str, Any]:
        return {"contents": [{"uri": request.params["uri"], "text": "static"}]}

    @server.resource(WATCHED, "watched", "text/plain")
    async def watched(request: Request) -> dict[str, Any]:
        return {"contents": [{"uri": request.params["uri"], "text": "watched"}]}

    @server.resource("note://named/{name}", "named", "text/plain")
    async def named(request: Request) -> dict[str, Any]:
        return {"contents": [{"uri": request.params["uri"], "text": request.variables["name"]}]}

    @server.prompt("greet", "Greet somebody.", "name")
    async def greet(request: Request) -> dict[str, Any]:
        greeting = {"type": "text", "text": f"Greet {request.arguments['name']}."}
        note = {"type": "resource", "resource": {"uri": "note://static", "text": "static"}}
        return {"messages": [{"role": "user", "content": content} for content in (greeting, note)]}

    def complete(request: Request) -> list[str]:
        start = request.params["argument"]["value"]
        reference = request.params["ref"]
        known = ("ada", "alan", "grace") if reference["type"] == "ref/prompt" else ("apple", "avocado", "pear")
        return [value for value in known if value.startswith(start)]

    server.completions = complete


def _add_changes(server: WireServer, sessions: dict[int, ServerSession]) -> None:
    """Add tools that change what clients are told of; ``sessions`` are those of the older revisions."""

    @server.tool("add_tool", "Add a tool and say so.", _NAME)
    async def add_tool(request: Request) -> dict[str, Any]:
        async def added(_: Request) -> dict[str, Any]:
            return text("added")

        server.tool(request.arguments["name"], "Added.")(added)
        await server.bus.publish(ToolsListChanged())
        for session in list(sessions.values()):
            await session.send_tool_list_changed()
        return text("added")

    @server.tool("touch", "Say that the watched resource has changed.")
    async def touch(_: Request) -> dict[str, Any]:
        await server.bus.publish(ResourceUpdated(uri=WATCHED))
        for context in list(server.subscribed.get(WATCHED, {}).values()):
            await context.session.send_resource_updated(WATCHED)
        return text("touched")


def _build(era: EraName, journal: Journal) -> WireServer:
    server = WireServer(f"era-{era}", instructions=f"Speaks {era}.")
    sessions: dict[int, ServerSession] = {}
    _add_tools(server, journal)
    _add_questions(server)
    _add_rest(server)
    _add_changes(server, sessions)

    async def note(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Write down every message, remember the sessions, and refuse the handshake of a server without it."""
        if ctx.method == "initialize" and era == "modern":
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": "2025-11-25"}
            raise MCPError(UNSUPPORTED_PROTOCOL_VERSION, "There is no handshake here.", data)
        if ctx.method == "notifications/initialized":
            sessions[id(ctx.session)] = ctx.session
        declared = ctx.session.client_capabilities
        journal.write(
            ctx.method,
            revision=ctx.protocol_version,
            declares=sorted(declared.model_dump(exclude_none=True)) if declared else [],
            authorization=ctx.request.headers.get("authorization") if ctx.request is not None else None,
        )
        return await call_next(ctx)

    server.engine.middleware.append(note)
    return server


class _OneEra:
    """Answers requests of the other era as a server does that has never heard of it."""

    def __init__(self, app: ASGIApp, era: EraName) -> None:
        self._app = app
        self._era = era

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = dict(scope.get("headers", ())).get(b"mcp-protocol-version", b"").decode()
        modern = version in MODERN_PROTOCOL_VERSIONS
        if scope["type"] != "http" or modern is (self._era == "modern"):
            await self._app(scope, receive, send)
            return
        error: dict[str, Any] = {"code": -32000, "message": "Bad Request: Unsupported protocol version"}
        if self._era == "modern":
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": version}
            error = {"code": UNSUPPORTED_PROTOCOL_VERSION, "message": "Unsupported protocol version", "data": data}
        await JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)(scope, receive, send)


def _sse_app(server: WireServer) -> ASGIApp:
    transport = SseServerTransport("/messages/")

    class _Stream:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with transport.connect_sse(scope, receive, send) as (read, write):
                await server.engine.run(read, write, server.engine.create_initialization_options())

    async def refuse(_: HttpRequest) -> JSONResponse:
        return JSONResponse({"error": "Not here."}, 404)

    return Starlette(
        routes=[
            Route("/sse", _Stream(), methods=["GET"]),
            Mount("/messages/", transport.handle_post_message),
            Route("/{rest:path}", refuse, methods=["GET", "POST"]),
        ]
    )


async def _over_stdio(server: WireServer, era: EraName) -> None:
    options = server.engine.create_initialization_options()
    async with stdio_server() as (read, write):
        if era == "legacy":
            await serve_loop(server.engine, read, write, lifespan_state={}, init_options=options)
        else:
            await server.engine.run(read, write, options)


async def _run(transport: TransportName, era: EraName, journal: Path) -> None:
    server = _build(era, Journal(journal))
    if transport == "stdio":
        await _over_stdio(server, era)
    elif transport == "sse":
        await serve(_sse_app(server))
    else:
        app = server.engine.streamable_http_app()
        await serve(app if era == "both" else _OneEra(app, era))


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=get_args(TransportName))
    parser.add_argument("era", choices=get_args(EraName))
    parser.add_argument("journal", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    uvloop.run(_run(arguments.transport, arguments.era, arguments.journal))


if __name__ == "__main__":
    main()
