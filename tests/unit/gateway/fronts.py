"""The fronts between a client that can pause and leave, and a router that does what it is told."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from agentapi._core import Keyring
from agentapi.errors import InsufficientScopeError, UpstreamNeedsConnectionError
from agentapi.gateway.call import Call, read_message
from agentapi.gateway.conversations import Conversations
from agentapi.gateway.items import Target
from agentapi.gateway.legacy import LegacyFront
from agentapi.gateway.listening import OpenStreams
from agentapi.gateway.modern import ModernFront
from agentapi.gateway.reply import StreamLimits
from agentapi.gateway.session_ids import SessionIds
from agentapi.principal import OrgId, Principal, Role, UserId, WorkspaceId
from agentapi.tenancy.models import Workspace
from agentapi.upstreams.registry import WorkspaceView
from unit.upstreams.doubles import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from agentapi.gateway.exchange import Exchange, Interest, Relay, Visitor
    from agentapi.gateway.incoming import Incoming

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
SOON_S = 5.0
"""Long for what takes no time; a test that waits this long has failed."""

ALICE = Principal(
    user_id=UserId(UUID(int=1)),
    org_id=OrgId(UUID(int=2)),
    org_slug="acme",
    role=Role.MEMBER,
    issuer="https://issuer.example",
    subject="alice",
)
WORKSPACE = Workspace(WorkspaceId(UUID(int=3)), ALICE.org_id, "main", "Main", datetime(2026, 1, 1, tzinfo=UTC))
INITIALIZE = {
    "protocolVersion": LEGACY,
    "capabilities": {"sampling": {}, "elicitation": {}, "roots": {}},
    "clientInfo": {"name": "tests", "version": "1"},
}


def call(principal: Principal = ALICE, *, workspace: Workspace = WORKSPACE, **changes: Any) -> Call:
    """An admitted request of ``principal``."""
    given: dict[str, Any] = {
        "principal": principal,
        "view": WorkspaceView(workspace, ()),
        "toolset": None,
        "expires_at": int(time.time()) + 600,
        "operation_scopes": False,
        "challenge": lambda error: f'Bearer scope="{" ".join(error.scopes)}"',
        **changes,
    }
    return Call(**given)


def incoming(message: object) -> Incoming:
    return read_message(json.dumps(message).encode(), max_bytes=1 << 22, max_depth=64)


@dataclass
class StubRouter:
    """Answers each method as a test says, and keeps what it was told."""

    answers: dict[str, Callable[[Exchange], Awaitable[dict[str, Any]]]] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    notices: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    listeners: dict[UUID, tuple[Interest, Callable[[str, dict[str, Any]], None]]] = field(default_factory=dict)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    refuse_to_listen: Exception | None = None
    slow_to_listen: asyncio.Event | None = None
    """Set when listening may begin."""

    async def meant(self, exchange: Exchange) -> Exchange:
        return exchange

    async def answer(self, exchange: Exchange) -> dict[str, Any]:
        self.exchanges.append(exchange)
        return await self.answers[exchange.method](exchange)

    async def connection_needed(self, exchange: Exchange, error: UpstreamNeedsConnectionError) -> dict[str, Any]:
        del exchange
        raise error

    async def target(self, exchange: Exchange) -> Any:
        return self.targets.get(exchange.params["name"])

    async def capabilities(self, visitor: Visitor) -> dict[str, Any]:
        del visitor
        return {"tools": {"listChanged": True}}

    async def instructions(self, visitor: Visitor) -> str | None:
        del visitor
        return None

    async def notified(self, visitor: Visitor, method: str, params: dict[str, Any]) -> None:
        del visitor
        self.notices.append((method, params))

    @asynccontextmanager
    async def listen(
        self, visitor: Visitor, interest: Interest, on_event: Callable[[str, dict[str, Any]], None]
    ) -> AsyncIterator[Interest]:
        del visitor
        if self.refuse_to_listen is not None:
            raise self.refuse_to_listen
        if self.slow_to_listen is not None:
            await self.slow_to_listen.wait()
        key = uuid4()
        self.listeners[key] = interest, on_event
        self.heard.set()
        try:
            yield interest
        finally:
            del self.listeners[key]

    async def ended(self, visitor: Visitor) -> None:
        self.left.append(visitor.client.conversation)

    def tell(self, method: str, **params: Any) -> None:
        """Report a change to everybody who listens."""
        for _, on_event in list(self.listeners.values()):
            on_event(method, params)


class Client:
    """The other end of one request, as an ASGI server shows it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = False
        self.reads = asyncio.Event()
        self.reads.set()
        self._left = asyncio.Event()
        self._arrived = asyncio.Event()
        self._seen = 0

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert self.status is not None
            assert not self.is_complete
            self.body += message["body"]
            self.is_complete = not message.get("more_body", False)
        self._arrived.set()

    def leave(self) -> None:
        self._left.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The messages on the stream so far."""
        assert self.headers["content-type"] == "text/event-stream"
        blocks = self.body.decode().split("\n\n")[:-1]
        return [json.loads(block.partition("data: ")[2]) for block in blocks if "data: " in block]

    async def event(self) -> dict[str, Any]:
        """Wait for the next message on the stream."""
        async with asyncio.timeout(SOON_S):
            while self.status is None or len(self.events) <= self._seen:
                self._arrived.clear()
                await self._arrived.wait()
        self._seen += 1
        return self.events[self._seen - 1]

    async def started(self) -> None:
        await self.until(lambda: self.status is not None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something of the response holds."""
        async with asyncio.timeout(SOON_S):
            while not holds():
                self._arrived.clear()
                await self._arrived.wait()

    def json(self) -> dict[str, Any]:
        assert self.is_complete
        assert self.headers["content-type"] == "application/json", self.headers
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class World:
    """Both fronts over one router."""

    router: StubRouter = field(default_factory=StubRouter)
    limits: StreamLimits = field(default_factory=StreamLimits)
    most_streams: int = 10_000
    relay: Relay | None = None
    answer_timeout_s: float = SOON_S
    session_ttl_s: int = 600
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.streams = OpenStreams(most=self.most_streams, most_per_user=self.most_streams)
        self.modern = ModernFront(router=self.router, streams=self.streams, limits=self.limits, relay=self.relay)
        self.ids = SessionIds(Keyring.parse(Keyring.generate("k1")), ttl_s=self.session_ttl_s, clock=self.now)
        self.conversations = Conversations(clock=self.now)
        self.legacy = LegacyFront(
            router=self.router,
            ids=self.ids,
            conversations=self.conversations,
            streams=self.streams,
            limits=self.limits,
            answer_timeout_s=self.answer_timeout_s,
        )

    def ask_modern(
        self,
        message: dict[str, Any],
        *,
        by: Call | None = None,
        headers: dict[str, str] | None = None,
        more: Sequence[tuple[str, str]] = (),
    ) -> Request:
        sent = {"mcp-protocol-version": MODERN, "mcp-method": message.get("method", ""), **(headers or {})}
        name = message.get("params", {}).get("name")
        if isinstance(name, str):
            sent.setdefault("mcp-name", name)
        client = Client()
        scope = _scope("POST", sent, more)
        serve = self.modern.serve(by or call(), incoming(message), scope, client.receive, client.send)
        return Request(client, asyncio.ensure_future(serve))

    def ask_legacy(
        self,
        message: dict[str, Any] | None,
        *,
        session: str | None = None,
        verb: str = "POST",
        by: Call | None = None,
        headers: dict[str, str] | None = None,
        more: Sequence[tuple[str, str]] = (),
    ) -> Request:
        sent = {"mcp-protocol-version": LEGACY, **(headers or {})}
        if session is not None:
            sent["mcp-session-id"] = session
        client = Client()
        given = incoming(message) if message is not None else None
        serve = self.legacy.serve(by or call(), given, _scope(verb, sent, more), client.receive, client.send)
        return Request(client, asyncio.ensure_future(serve))

    async def initialize(self, by: Call | None = None, **changes: Any) -> str:
        """Begin a session and return its id."""
        asked = self.ask_legacy(request("initialize", {**INITIALIZE, **changes}), by=by)
        client = await asked.answered()
        assert client.status == 200, client.body
        return client.headers["mcp-session-id"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request under way."""

    client: Client
    task: asyncio.Future[None]

    async def answered(self) -> Client:
        """Wait for the end of the response."""
        async with asyncio.timeout(SOON_S):
            await self.task
        return self.client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.leave()
        async with asyncio.timeout(SOON_S):
            await self.task


def request(method: str, params: dict[str, Any] | None = None, *, identifier: int | str = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params or {}}


def modern_request(
    method: str,
    params: dict[str, Any] | None = None,
    *,
    identifier: int | str = 1,
    meta: dict[str, Any] | None = None,
) -> dict[str, Any]:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        **(meta or {}),
    }
    return request(method, {**(params or {}), "_meta": envelope}, identifier=identifier)


def tool(**properties: Any) -> Target:
    """A target whose tool takes ``properties``."""
    definition = {"name": "t", "inputSchema": {"type": "object", "properties": properties}}
    return Target(upstream(), "name", "t", "t", definition)


def scope_refusal(*scopes: str) -> Exception:
    return InsufficientScopeError(scopes)


def _scope(verb: str, headers: dict[str, str], more: Sequence[tuple[str, str]]) -> dict[str, Any]:
    given = {"accept": "application/json, text/event-stream", "content-type": "application/json", **headers}
    return {
        "type": "http",
        "method": verb,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in [*given.items(), *more]],
    }
