"""Upstreams that are spoken to without a connection, and the requests of clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from mcp import MCPError
from mcp_types import METHOD_NOT_FOUND

from agentapi.errors import UpstreamError
from agentapi.gateway.call import read_message
from agentapi.gateway.exchange import ClientTraits, Exchange
from agentapi.principal import Principal, WorkspaceId
from agentapi.tenancy.models import Workspace
from agentapi.upstreams.link import Caller, Era, Peer, Profile
from agentapi.upstreams.registry import WorkspaceView
from unit.upstreams.doubles import NOW, ORG, PRINCIPAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentapi.principal import UserId
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.models import Upstream

ALL: dict[str, Any] = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "completions": {},
    "logging": {},
}
WORKSPACE = Workspace(WorkspaceId(UUID(int=3)), ORG, "main", "Main", NOW)


def tool(name: str, **members: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **members}


@dataclass(slots=True)
class Asked:
    """A request as an upstream saw it."""

    caller: Caller
    method: str
    params: dict[str, Any]
    peer: Peer | None
    options: dict[str, Any]


@dataclass(slots=True)
class Server:
    """One upstream: what it lists, and what it answers."""

    lists: dict[str, list[Any]] = field(default_factory=dict)
    answer: Callable[[Asked], Awaitable[dict[str, Any]]] | None = None
    capabilities: dict[str, Any] = field(default_factory=lambda: dict(ALL))
    era: Era = Era.MODERN
    ttl_ms: int | None = None
    page_size: int = 100_000
    instructions: str | None = None
    failure: Exception | None = None
    """Of reaching it at all."""
    list_failure: Exception | None = None
    profiled: int = 0
    """How often it was reached for."""
    gate: asyncio.Event | None = None
    asked: list[Asked] = field(default_factory=list)
    listens: list[dict[str, Any]] = field(default_factory=list)
    """Every subscription that was opened."""
    listening: list[dict[str, Any]] = field(default_factory=list)
    """Those that are still open."""
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to break the subscriptions."""

    @property
    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]


_KEYS = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}


@dataclass(slots=True)
class Client:
    """Stands in for the client of upstreams."""

    servers: dict[str, Server]
    listeners: list[Callable[[Upstream, UserId, str, dict[str, Any]], None]] = field(default_factory=list)
    notified: list[tuple[str, Caller, str, dict[str, Any]]] = field(default_factory=list)
    ended: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def typed(self) -> UpstreamClient:
        return cast("UpstreamClient", self)

    def era(self, upstream: Upstream) -> Era | None:
        return self.servers[upstream.name].era

    async def profile(self, upstream: Upstream, caller: Caller) -> Profile:
        server = self.servers[upstream.name]
        assert caller.org_id == upstream.org_id
        server.profiled += 1
        if server.failure is not None:
            raise server.failure
        return Profile(server.era, "2026-07-28", server.capabilities, {}, server.instructions)

    async def request(
        self,
        upstream: Upstream,
        caller: Caller,
        method: str,
        params: dict[str, Any],
        *,
        peer: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        server = self.servers[upstream.name]
        asked = Asked(caller, method, params, peer, options)
        server.asked.append(asked)
        if server.gate is not None:
            await server.gate.wait()
        if server.failure is not None:
            raise server.failure
        if method in _KEYS:
            if server.list_failure is not None:
                raise server.list_failure
            return self._page(server, _KEYS[method], params)
        if server.answer is None:
            raise MCPError(METHOD_NOT_FOUND, "Method not found")
        return await server.answer(asked)

    def _page(self, server: Server, key: str, params: dict[str, Any]) -> dict[str, Any]:
        items = server.lists.get(key, [])
        start = int(params.get("cursor", 0))
        end = start + server.page_size
        page: dict[str, Any] = {key: items[start:end]}
        if server.ttl_ms is not None:
            page["ttlMs"] = server.ttl_ms
        return {**page, "nextCursor": str(end)} if end < len(items) else page

    def on_change(self, callback: Callable[[Upstream, UserId, str, dict[str, Any]], None]) -> None:
        self.listeners.append(callback)

    def hear(self, upstream: Upstream, method: str, params: dict[str, Any] | None = None) -> None:
        for listener in self.listeners:
            listener(upstream, PRINCIPAL.user_id, method, params or {})

    async def notify(self, upstream: Upstream, caller: Caller, method: str, params: dict[str, Any]) -> None:
        self.notified.append((upstream.name, caller, method, params))

    def end_conversation(self, org_id: Any, conversation: str) -> None:
        self.ended.append((org_id, conversation))

    @contextlib.asynccontextmanager
    async def listen(self, upstream: Upstream, caller: Caller, *, on_event: Any, **wanted: Any) -> AsyncIterator[None]:
        del on_event
        server = self.servers[upstream.name]
        assert caller == Caller(upstream.org_id, PRINCIPAL.user_id)
        if server.failure is not None:
            raise server.failure
        server.listens.append(wanted)
        server.listening.append(wanted)
        holder = asyncio.current_task()
        assert holder is not None
        breaking = asyncio.ensure_future(server.ends.wait())
        breaking.add_done_callback(lambda done: None if done.cancelled() else holder.cancel())
        try:
            yield
        except asyncio.CancelledError:
            if not server.ends.is_set():
                raise
            holder.uncancel()
            raise UpstreamError("It stopped.") from None
        finally:
            server.listening.remove(wanted)
            breaking.cancel()


@dataclass(slots=True)
class Listener:
    """The peer of a client: what it was told and asked, and what it answers."""

    answers: dict[str, Any] = field(default_factory=dict)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        self.told.append((method, params))

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, params))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return cast("dict[str, Any]", answer)


def exchange(
    method: str,
    params: dict[str, Any] | None = None,
    *upstreams: Upstream,
    era: Era = Era.MODERN,
    principal: Principal = PRINCIPAL,
    capabilities: dict[str, Any] | None = None,
    peer: Peer | None = None,
    conversation: str = "",
    toolset: str | None = None,
) -> Exchange:
    revision = "2026-07-28" if era is Era.MODERN else "2025-11-25"
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
    return Exchange(
        principal=principal,
        view=WorkspaceView(WORKSPACE, upstreams),
        toolset=toolset,
        client=ClientTraits(era, revision, capabilities or {}, {"name": "test"}, conversation),
        method=method,
        peer=peer or Listener(),
        expires_at=math.inf,
        incoming=read_message(json.dumps(message).encode(), max_bytes=1 << 24, max_depth=64),
    )
