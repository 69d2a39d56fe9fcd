"""``agentapi dev``: a whole gateway from nothing, on loopback, for one person to try."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import socket
import sys
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.routing import Mount

import agentapi
from agentapi._core import Keyring
from agentapi.app import Extension, create_app
from agentapi.dev_data import keyring_path
from agentapi.dev_seed import ORGANIZATION, SUBJECT, WORKSPACE, seed
from agentapi.errors import StartupError
from agentapi.http_server import HttpProtocol, spare_long_lived_objects
from agentapi.identity.token_issuer import TokenIssuer, write_private_file
from agentapi.observability.logs import configure_from_settings
from agentapi.principal import Role
from agentapi.settings import IssuerSettings, Settings, StdioCommand, load_issuers, load_settings
from agentapi.storage.embedded import APP_ROLE, embedded_postgres
from agentapi.storage.migrations import migrate
from agentapi.upstreams.mcp_servers import DeclaredServer
from agentapi.upstreams.models import Auth, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from starlette.applications import Starlette

    from agentapi.storage.embedded import EmbeddedPostgres

__all__ = ["ISSUER", "DevOptions", "Ready", "issuer_key_path", "run_dev"]

TOKEN_LIFETIME_S = 7 * 24 * 3600
ISSUER = "urn:agentapi:dev"
"""Independent of the port, so that the developer stays the same person."""

_LOCAL_NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
"""A developer's own servers may be on this machine or in the house; metadata services are in none of these."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What the command line says."""

    data_dir: Path
    host: str
    port: int
    servers: Sequence[DeclaredServer] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """What a newcomer needs once the gateway serves."""

    base_url: str
    mcp_url: str
    token: str = field(repr=False)
    organization: str
    workspace: str
    data_dir: str


def issuer_key_path(data_dir: Path) -> Path:
    """Return where the dev issuer of a data directory keeps its key."""
    return data_dir / "issuer-key.json"


async def run_dev(options: DevOptions, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGINT or SIGTERM; whatever this started has ended when it returns.

    Raises:
        StartupError: The gateway cannot start; one sentence says why.
    """
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(_serve(options, on_ready))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _serve(options: DevOptions, on_ready: Callable[[Ready], None]) -> None:
    """Start everything in order and wait; being cancelled is the way to stop, at any point."""
    with _listening_socket(options.host, options.port) as listener:
        host = f"[{options.host}]" if ":" in options.host else options.host
        base_url = f"http://{host}:{listener.getsockname()[1]}"
        async with embedded_postgres(options.data_dir) as postgres:
            await migrate(postgres.owner_dsn, APP_ROLE)
            issuer = TokenIssuer.from_file(ISSUER, issuer_key_path(options.data_dir))
            settings = _settings(options, base_url, issuer, postgres)
            configure_from_settings(settings)
            # What stdio servers of a run that was killed left behind; those of sessions live on with them.
            shutil.rmtree(settings.state_dir / "stdio", ignore_errors=True)
            demo_token = secrets.token_urlsafe(32)
            await seed(settings, issuer, [*_demo_servers(base_url, demo_token), *options.servers])
            spare_long_lived_objects()
            async with _http_server(create_app(settings, _extension(demo_token)), listener) as ended:
                on_ready(_ready(options, base_url, issuer))
                await asyncio.wait({ended})
                raise StartupError("The gateway stopped by itself; the log above says why.")


@contextlib.asynccontextmanager
async def _http_server(app: Starlette, listener: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """Serve ``app`` on ``listener`` for the length of the context; signals are the caller's business.

    Yields the task that serves, which ends before the context only if the server fails.
    """
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        lifespan="on",
    )
    server = _Server(config)
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    started = asyncio.ensure_future(server.is_started.wait())
    try:
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        if not server.started:
            await task
            raise StartupError("The gateway did not start; the log above says why.")
        yield task
    finally:
        started.cancel()
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """A server that leaves signals alone and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()


def _listening_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named so that asyncio switches Nagle's algorithm off.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Only a listening socket keeps a second start from taking the same port.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartupError(
            f"Port {port} on {host} cannot be used ({error.strerror}); choose another with --port."
        ) from None
    return listener


def _settings(options: DevOptions, base_url: str, issuer: TokenIssuer, postgres: EmbeddedPostgres) -> Settings:
    """Return the environment's settings with what ``dev`` decides on top."""
    given = load_settings()
    own = IssuerSettings(issuer=issuer.issuer, audiences=(base_url,), jwks=issuer.key_set())
    commands = {server.name: server.command for server in (_CLOCK, *options.servers) if server.command is not None}
    return load_settings(
        environment="development",
        public_url=base_url,
        data_dir=options.data_dir,
        host=options.host,
        database_url=postgres.app_dsn,
        keyring=_keyring(options.data_dir),
        issuers=(own, *load_issuers(given)),
        issuers_file=None,
        egress_allow_http=True,
        egress_allow_networks=(*given.egress_allow_networks, *map(ip_network, _LOCAL_NETWORKS)),
        # The developer has seen each command line and said yes to it; it may use what they use. See README.
        sandbox=given.sandbox if "sandbox" in given.model_fields_set else "off",
        stdio_commands={**given.stdio_commands, **commands},
        state_dir=options.data_dir / "state",
        log_format="console" if sys.stderr.isatty() else given.log_format,
    )


def _keyring(data_dir: Path) -> str:
    path = keyring_path(data_dir)
    if not path.exists():
        write_private_file(path, Keyring.generate("dev"))
    return path.read_text(encoding="utf-8", errors="replace")


_CLOCK = DeclaredServer(
    "clock",
    Transport.STDIO,
    command=StdioCommand(
        command=sys.executable,
        args=("-m", "agentapi.demo.clock"),
        readable=(Path(agentapi.__file__).parent.parent,),
        description="Demo",
    ),
)


def _demo_servers(base_url: str, token: str) -> list[DeclaredServer]:
    notes = DeclaredServer(
        "notes", Transport.HTTP, endpoint=f"{base_url}/demo/notes/mcp", auth=Auth.BEARER, secret=token
    )
    return [notes, _CLOCK]


def _extension(demo_token: str) -> Extension:
    from agentapi.demo.notes import notes_app  # noqa: PLC0415 - a production gateway never loads it

    notes = notes_app(demo_token)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with notes.router.lifespan_context(notes):
            yield

    return Extension(routes=[Mount("/demo/notes", notes)], lifespan=lifespan)


def _ready(options: DevOptions, base_url: str, issuer: TokenIssuer) -> Ready:
    mcp_url = f"{base_url}/mcp/{ORGANIZATION}/{WORKSPACE}"
    token = issuer.mint(
        subject=SUBJECT,
        audiences=[base_url],
        organization=ORGANIZATION,
        role=Role.ORG_ADMIN,
        lifetime_s=TOKEN_LIFETIME_S,
    )
    return Ready(
        base_url=base_url,
        mcp_url=mcp_url,
        token=token,
        organization=ORGANIZATION,
        workspace=WORKSPACE,
        data_dir=str(options.data_dir),
    )
