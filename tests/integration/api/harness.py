"""The real application on the real database, called in process; and servers on loopback for it to call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

import agentapi
from agentapi.app import create_app
from agentapi.principal import Role
from agentapi.settings import IssuerSettings, Settings, StdioCommand, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx2
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres
    from tenants import Tenant

PUBLIC_URL = "http://gateway.example"
CONFIGURATIONS = "/api/v1/mcp/configurations"
ISSUER = "urn:agentapi:test"

__all__ = [
    "CONFIGURATIONS",
    "ISSUER",
    "PUBLIC_URL",
    "Api",
    "Caller",
    "lifespan_of",
    "living",
    "served",
    "settings_for",
]


def settings_for(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path, **changes: Any
) -> Settings:
    """Settings of a gateway that believes ``issuer`` and may reach loopback."""
    accepted = IssuerSettings.model_validate(
        {
            "issuer": issuer.issuer,
            "audiences": [PUBLIC_URL],
            "jwks": issuer.key_set(),
            "claims": {"roles": {"platform_admin": "platform_admin"}},
        }
    )
    source = str(Path(agentapi.__file__).parent.parent)
    clock = StdioCommand.model_validate(
        {
            "command": sys.executable,
            "args": ["-m", "agentapi.demo.clock"],
            "env": {"PYTHONPATH": source},
            "user_env": ["CLOCK_TOKEN"],
        }
    )
    tests = str(Path(__file__).resolve().parents[2])
    keyed = StdioCommand.model_validate(
        {
            "command": sys.executable,
            "args": ["-m", "support.key_server"],
            "env": {"PYTHONPATH": tests},
            "user_env": ["KEY_TOKEN"],
        }
    )
    broken = StdioCommand(command="/nonexistent/mcp-server")
    given: dict[str, Any] = {
        "environment": "development",
        "public_url": PUBLIC_URL,
        "database_url": postgres.app_dsn,
        "database_pool_min": 1,
        "keyring": keyring,
        "issuers": (accepted,),
        "egress_allow_http": True,
        "egress_allow_networks": ("127.0.0.0/8",),
        "stdio_commands": {"clock": clock, "keyed": keyed, "broken": broken},
        "sandbox": "off",
        "state_dir": state_dir,
        **changes,
    }
    return load_settings(**given)


@contextlib.asynccontextmanager
async def lifespan_of(settings: Settings) -> AsyncIterator[Starlette]:
    """Make the application and run its lifespan."""
    app = create_app(settings)
    async with living(app):
        yield app


@contextlib.asynccontextmanager
async def living(app: Starlette) -> AsyncIterator[None]:
    """Run an application's lifespan in a task of its own, since fixtures begin and end in different ones."""
    started, stop = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            started.set()
            await stop.wait()

    task = asyncio.ensure_future(live())
    waiter = asyncio.ensure_future(started.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set():
        waiter.cancel()
        await task
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a token."""

    http: httpx2.AsyncClient
    token: str

    async def request(self, method: str, path: str, **given: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}", **given.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **given)

    async def create(self, **changes: Any) -> httpx2.Response:
        return await self.request("POST", CONFIGURATIONS, json=configuration(**changes))

    async def created(self, **changes: Any) -> dict[str, Any]:
        answer = await self.create(**changes)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def read(self, id_: str) -> httpx2.Response:
        return await self.request("GET", f"{CONFIGURATIONS}/{id_}")

    async def replace(self, id_: str, **changes: Any) -> httpx2.Response:
        return await self.request("PUT", f"{CONFIGURATIONS}/{id_}", json=configuration(**changes))

    async def delete(self, id_: str) -> httpx2.Response:
        return await self.request("DELETE", f"{CONFIGURATIONS}/{id_}")

    async def page(self, **parameters: Any) -> httpx2.Response:
        return await self.request("GET", CONFIGURATIONS, params=parameters)

    async def test(self, **body: Any) -> httpx2.Response:
        return await self.request("POST", "/api/v1/mcp/test", json=body)

    async def names(self) -> list[str]:
        return [item["name"] for item in (await self.page(limit=200)).json()["items"]]


@dataclass(frozen=True, slots=True)
class Api:
    """One organisation's way to the gateway."""

    http: httpx2.AsyncClient
    issuer: TokenIssuer
    tenant: Tenant

    def caller(self, role: Role = Role.ORG_ADMIN, subject: str = "alice", scopes: tuple[str, ...] = ()) -> Caller:
        minted = self.issuer.mint(
            subject=subject,
            audiences=[PUBLIC_URL],
            organization=self.tenant.principal.org_slug,
            role=role,
            lifetime_s=600,
            scopes=scopes,
        )
        return Caller(self.http, minted)


def configuration(**changes: Any) -> dict[str, Any]:
    """A good body; a member that is changed to ``...`` is left out."""
    body = {"name": "github", "transport": "http", "endpoint": "http://127.0.0.1:18080/mcp", **changes}
    return {name: value for name, value in body.items() if value is not ...}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()


@contextlib.asynccontextmanager
async def served(app: ASGIApp, *, lifespan: bool = False) -> AsyncIterator[str]:
    """Serve ``app`` on a free port of loopback and yield its address."""
    # asyncio turns off Nagle's algorithm only where the socket says that it is TCP; with it, an answer in two pieces
    # takes 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            lifespan="on" if lifespan else "off",
        )
    )
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    await asyncio.wait_for(server.is_started.wait(), 10)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait_for(task, 10)
        if lifespan:
            # A forced exit leaves it pending, until it is destroyed in the midst of another test.
            await asyncio.wait_for(server.lifespan.shutdown(), 10)
        listener.close()
