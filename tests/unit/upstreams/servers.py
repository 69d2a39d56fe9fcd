"""Servers of both eras on loopback and on pipes, made with the SDK, and a client in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent
from starlette.responses import JSONResponse

from agentapi._core import Keyring
from agentapi.egress.addresses import AddressPolicy
from agentapi.egress.client import Egress
from agentapi.principal import UserId
from agentapi.settings import StdioCommand
from agentapi.upstreams.client import Sharing, UpstreamClient
from agentapi.upstreams.connections import ConnectionPool
from agentapi.upstreams.credentials import SharedSecrets
from agentapi.upstreams.link import Bounds, Caller
from agentapi.upstreams.models import Transport, Upstream
from agentapi.upstreams.sandbox import SandboxLimits, SandboxSupport
from agentapi.upstreams.stdio import StdioCommands
from agentapi.upstreams.transports import SessionDirectory, TransportFactory
from agentapi.upstreams.wanted import Limits
from unit.upstreams.doubles import ORG, USER, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentapi.upstreams.breakers import UpstreamBreakers
    from agentapi.upstreams.credentials import Credentials

INFO = {"name": "test-client", "version": "9"}
ALICE = Caller(ORG, USER, client_info=INFO)
BOB = Caller(ORG, UserId(UUID(int=77)), client_info=INFO)
ASKABLE: dict[str, Any] = {"sampling": {}, "elicitation": {"form": {}}, "roots": {"listChanged": True}}


def session_of(caller: Caller, conversation: str, **capabilities: Any) -> Caller:
    return replace(caller, conversation=conversation, capabilities=capabilities or ASKABLE)


@dataclass(slots=True)
class Heard:
    """A ``Peer`` that writes down what it is told and answers what it is asked."""

    answers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        self.told.append((method, params))

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, params))
        if self.gate is not None:
            await self.gate.wait()
        return self.answers[method]

    @property
    def progress(self) -> list[tuple[Any, Any]]:
        return [(p["progressToken"], p["progress"]) for m, p in self.told if m == "notifications/progress"]


def sampled(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": {"type": "text", "text": text}, "model": "m", "unknownField": 1}


@dataclass(slots=True)
class Journal:
    """What happened inside a server: requests as they came, calls begun and cancelled."""

    requests: list[dict[str, str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    begun: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    cancelled: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    contexts: dict[str, Any] = field(default_factory=dict)


def full_server(journal: Journal) -> MCPServer:
    """A server that asks, reports, logs, waits and changes."""
    server = MCPServer("full", version="1", instructions="Be kind.")

    @server.tool()
    def echo(text: str) -> str:
        """Say it back."""
        return text

    @server.tool()
    async def steps(count: int, ctx: Context) -> str:
        """Report progress."""
        for step in range(count):
            await ctx.report_progress(step, count, f"step {step}")
        return "done"

    @server.tool()
    async def say(text: str, level: Any, ctx: Context) -> str:
        """Log something."""
        await ctx.session.send_log_message(level, text, "full", related_request_id=ctx.request_id)
        return "said"

    @server.tool()
    async def sample(text: str, ctx: Context) -> str:
        """Ask the client's model."""
        message = SamplingMessage(role="user", content=TextContent(text=text))
        result = await ctx.session.create_message([message], max_tokens=10, related_request_id=ctx.request_id)
        return str(getattr(result.content, "text", ""))

    @server.tool()
    async def hang(name: str) -> str:
        """Never answer, and write down who gave up."""
        journal.begun.put_nowait(name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            journal.cancelled.put_nowait(name)
            raise
        raise AssertionError

    @server.tool()
    async def change(uri: str, ctx: Context) -> str:
        """Say that the tools and a resource have changed."""
        await ctx.session.send_tool_list_changed()
        await ctx.notify_tools_changed()
        await ctx.session.send_resource_updated(uri)
        await ctx.notify_resource_updated(uri)
        return "changed"

    @server.resource("test://watched")
    def watched() -> str:
        """A text."""
        return "text"

    return server


class Front:
    """Writes down the requests of a server and, for one of the legacy era, refuses what is modern."""

    def __init__(self, app: ASGIApp, journal: Journal, *, legacy: bool, refusal: int = 400) -> None:
        self._app = app
        self._journal = journal
        self._legacy = legacy
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self._journal.requests.append({"http": scope["method"], **headers})
            if self._legacy and headers.get("mcp-protocol-version", "") >= "2026":
                error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "Bad Request"}}
                await JSONResponse(error, self._refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Server(uvicorn.Server):
    started_at: asyncio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.started_at.set()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Serve ``app`` from this process and yield its base URL."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=0, ws="none")
    server = _Server(config)
    server.started_at = asyncio.Event()
    # Signals are pytest's.
    task = asyncio.ensure_future(server._serve(sockets=[listener]))
    await server.started_at.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        # A forced exit leaves it pending, until it is destroyed in the midst of another test.
        await asyncio.wait_for(server.lifespan.shutdown(), 10)


@contextlib.asynccontextmanager
async def full_http(journal: Journal, *, legacy: bool) -> AsyncIterator[str]:
    app = full_server(journal).streamable_http_app()
    async with serving(Front(app, journal, legacy=legacy)) as base:
        yield f"{base}/mcp"


@contextlib.asynccontextmanager
async def full_sse(journal: Journal) -> AsyncIterator[str]:
    async with serving(Front(full_server(journal).sse_app(), journal, legacy=False)) as base:
        yield f"{base}/sse"


def command(*argv: str) -> StdioCommand:
    return StdioCommand(command=argv[0], args=argv[1:])


def python(path: Path) -> StdioCommand:
    return command(sys.executable, "-S", "-E", str(path))


@dataclass(frozen=True, slots=True)
class World:
    """A client, its pool and what they stand on."""

    client: UpstreamClient
    pool: ConnectionPool
    egress: Egress


@contextlib.asynccontextmanager
async def world(
    root: Path | None = None,
    *,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
    sharing: Sharing = "user",
    max_message_bytes: int = 1024 * 1024,
    credentials: Credentials | None = None,
    bounds: Bounds | None = None,
    allowed: StdioCommands | None = None,
    session_directory: SessionDirectory | None = None,
    breakers: UpstreamBreakers | None = None,
    sockets: int = 500,
    egress_timeout_s: float = 10.0,
    **commands: StdioCommand,
) -> AsyncIterator[World]:
    policy = AddressPolicy(allow_networks=(ipaddress.ip_network("127.0.0.0/8"),), allow_http=True)
    pool = ConnectionPool(limits or Limits(), clock=clock)
    async with Egress(policy, max_connections=sockets, timeout_s=egress_timeout_s) as egress:
        allowed = allowed or StdioCommands(
            commands,
            root=root or Path("/nonexistent"),
            limits=SandboxLimits(),
            support=SandboxSupport(None, False, True, True, True, False),
            mode="off",
        )
        transports = TransportFactory(
            egress=egress,
            commands=allowed,
            max_message_bytes=max_message_bytes,
            session_directory=session_directory,
        )
        given = credentials or SharedSecrets(Keyring.parse(Keyring.generate("k")))
        async with pool.run():
            client = UpstreamClient(
                pool,
                transports,
                credentials=given,
                clock=clock,
                breakers=breakers,
                stdio_sharing=sharing,
                bounds=bounds or Bounds(),
            )
            yield World(client, pool, egress)


def http(url: str, name: str = "up", number: int = 1, **changes: Any) -> Upstream:
    return upstream(name, number, endpoint=url, **changes)


def sse(url: str, name: str = "up", number: int = 1) -> Upstream:
    return upstream(name, number, endpoint=url, transport=Transport.SSE)


def stdio(name: str, number: int = 1) -> Upstream:
    return upstream(name, number, endpoint=None, command=name, transport=Transport.STDIO)


async def call(client: UpstreamClient, to: Upstream, caller: Caller, tool: str, /, **given: Any) -> dict[str, Any]:
    """Call a tool with the arguments ``given``; ``peer``, ``meta``, ``timeout_s`` and ``repeatable`` are for us."""
    options = {name: given.pop(name) for name in ("peer", "timeout_s", "repeatable", "definition") if name in given}
    meta = given.pop("meta", None)
    params: dict[str, Any] = {"name": tool, "arguments": given}
    if meta is not None:
        params["_meta"] = meta
    return await client.request(to, caller, "tools/call", params, **{"timeout_s": 10.0, **options})


def text_of(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])
