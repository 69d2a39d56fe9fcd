"""Upstream servers in this process: how often they were opened and closed, and made to wait or fail."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mcp.client._memory import InMemoryTransport
from mcp.server.mcpserver import MCPServer

from agentapi.principal import OrgId, Principal, Role, UpstreamId, UserId, WorkspaceId
from agentapi.upstreams.channel import Channel
from agentapi.upstreams.models import Transport, Upstream
from agentapi.upstreams.wanted import ConnectionKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ORG = OrgId(UUID(int=1))
USER = UserId(UUID(int=2))
PRINCIPAL = Principal(USER, ORG, "acme", Role.MEMBER, "https://issuer.example", "alice")


@dataclass(slots=True)
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def key(number: int = 1, *, version: int = 1, user: int = 2, org: int = 1) -> ConnectionKey:
    return ConnectionKey(OrgId(UUID(int=org)), UpstreamId(UUID(int=number)), version, UserId(UUID(int=user)))


def upstream(name: str = "one", number: int = 1, **changes: Any) -> Upstream:
    made = Upstream(
        id=UpstreamId(UUID(int=number)),
        org_id=ORG,
        workspace_id=WorkspaceId(UUID(int=3)),
        name=name,
        transport=Transport.HTTP,
        endpoint="https://upstream.example/mcp",
        created_by=USER,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


def echo_server() -> MCPServer:
    server = MCPServer("echo", subscriptions=False)

    @server.tool()
    def echo(text: str) -> str:
        """Say it back."""
        return text

    @server.tool()
    async def hang() -> str:
        """Never answer."""
        await asyncio.Event().wait()
        raise AssertionError

    return server


@dataclass(slots=True)
class Opener:
    """An ``OpenChannel`` to a server in this process."""

    transport: Any = field(default_factory=echo_server)
    gate: asyncio.Event | None = None
    failure: Exception | None = None
    status: int | None = None
    parting: asyncio.Event | None = None
    """Set when it may close."""
    opened: int = 0
    closed: int = 0

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Channel]:
        self.opened += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            yield Channel(InMemoryTransport(self.transport), last_status=lambda: self.status)
        finally:
            if self.parting is not None:
                await self.parting.wait()
            self.closed += 1

    @property
    def open(self) -> int:
        return self.opened - self.closed


async def drain() -> None:
    """Let the tasks that are ready run to their next wait."""
    for _ in range(100):
        await asyncio.sleep(0)
