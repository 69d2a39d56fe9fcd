"""A relay over real sockets, and an ASGI server's two ends in the hands of a test."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from agentapi._core import Keyring
from agentapi.egress import AddressPolicy, Egress
from agentapi.gateway.call import read_message
from agentapi.gateway.connect_on_demand import ConnectOnDemand
from agentapi.gateway.exchange import ClientTraits, Exchange
from agentapi.gateway.items import Target
from agentapi.gateway.recording import CallRecorder
from agentapi.gateway.relay import ByteRelay
from agentapi.gateway.relay_passage import RelayLimits
from agentapi.gateway.reply import StreamLimits
from agentapi.gateway.request_state import RequestStates
from agentapi.principal import UpstreamId
from agentapi.upstreams.breakers import UpstreamBreakers
from agentapi.upstreams.credentials import SharedSecrets
from agentapi.upstreams.http_pool import HttpPool
from agentapi.upstreams.link import Era
from agentapi.upstreams.models import Auth
from agentapi.upstreams.retries import Retries
from agentapi.upstreams.secrets import seal_secret
from support.raw import modern_message
from unit.upstreams.doubles import ORG, PRINCIPAL, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Message

    from agentapi.gateway.connect_on_demand import Connector
    from agentapi.principal import Principal
    from agentapi.upstreams.credentials import Credentials
    from agentapi.upstreams.models import Upstream

KEYRING = Keyring.parse(Keyring.generate("k1"))
LIMITS = RelayLimits(
    call_timeout_s=5.0, max_answer_bytes=1024 * 1024, stream_timeout_s=10.0, max_stream_bytes=64 * 1024 * 1024
)
LOOPBACK = AddressPolicy(allow_networks=(ip_network("127.0.0.0/8"),), allow_http=True)
SECRET = "s3cret-of-the-upstream"


def result(text: str = "hello", *, identifier: object = 1, **more: Any) -> dict[str, Any]:
    """Return a good answer to a tool call."""
    content = [{"type": "text", "text": text}]
    return {"jsonrpc": "2.0", "id": identifier, "result": {"resultType": "complete", "content": content, **more}}


def progress(number: int) -> dict[str, Any]:
    params = {"progressToken": "p", "progress": number}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def secured(endpoint: str) -> Upstream:
    identifier = UpstreamId(UUID(int=1))
    return upstream("one", endpoint=endpoint, auth=Auth.BEARER, secret=seal_secret(KEYRING, ORG, identifier, SECRET))


@dataclass
class AsgiClient:
    """What an ASGI server would be: sends nothing more, and takes what it is given, or not."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    messages: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once somebody waits for it to leave."""
    status: int = 0
    pieces: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reads.set()

    async def receive(self) -> Message:
        self.watched.set()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message["headers"])
        else:
            self.pieces.append(message.get("body", b""))
        self.messages.put_nowait(message)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def kind(self) -> bytes:
        return dict(self.headers).get(b"content-type", b"")

    @property
    def streamed(self) -> list[dict[str, Any]]:
        """The messages of an event stream."""
        assert self.kind == b"text/event-stream", (self.kind, self.body)
        data = [line.removeprefix(b"data: ") for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(each) for each in data]

    @property
    def answer(self) -> dict[str, Any]:
        """The answer in JSON."""
        assert self.kind == b"application/json", (self.kind, self.body)
        message: dict[str, Any] = json.loads(self.body)
        return message

    @property
    def error(self) -> dict[str, Any]:
        message = self.streamed[-1] if self.kind == b"text/event-stream" else self.answer
        assert message["id"] == 1
        error: dict[str, Any] = message["error"]
        return error


@dataclass
class Relaying:
    """A relay, and what it was given."""

    relay: ByteRelay
    pool: HttpPool
    states: RequestStates
    finished: list[dict[str, Any]]
    forgotten: list[Upstream]
    """Whose era was forgotten."""

    async def call(
        self,
        wanted: Target,
        *,
        method: str = "tools/call",
        params: dict[str, Any] | None = None,
        body: bytes | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        client: AsgiClient | None = None,
        principal: Principal = PRINCIPAL,
        expires_at: float = math.inf,
    ) -> AsgiClient:
        client = client or AsgiClient()
        if body is None:
            given: dict[str, Any] = params if params is not None else {wanted.member: wanted.public_name}
            message = modern_message(method, given)
            message["params"]["_meta"].setdefault("progressToken", "p")
            body = json.dumps(message).encode()
        exchange = Exchange(
            principal=principal,
            view=cast("Any", None),
            toolset=None,
            client=ClientTraits(Era.MODERN, "2026-07-28"),
            method=method,
            peer=cast("Any", None),
            expires_at=expires_at,
            incoming=read_message(body, max_bytes=1 << 24, max_depth=64),
        )
        scope = {"type": "http", "headers": headers or []}
        async with asyncio.timeout(20):
            await self.relay.forward(exchange, wanted, scope, client.receive, client.send)
        return client


def target(
    given: str | Upstream,
    *,
    name: str = "echo",
    repeatable: bool = False,
    member: Any = "name",
    definition: dict[str, Any] | None = None,
) -> Target:
    to = upstream("one", endpoint=given) if isinstance(given, str) else given
    public = f"one__{name}" if member == "name" else f"mcp+one+{name}"
    return Target(to, member, name, public, definition, repeatable)


@asynccontextmanager
async def relaying(
    *,
    egress: Egress | None = None,
    recorder: CallRecorder | None = None,
    limits: RelayLimits = LIMITS,
    stream_limits: StreamLimits | None = None,
    clock: Callable[[], float] | None = None,
    max_connections: int = 8,
    credentials: Credentials | None = None,
    connector: Connector | None = None,
    breakers: UpstreamBreakers | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Relaying]:
    finished: list[dict[str, Any]] = []
    forgotten: list[Upstream] = []

    def finish(_: Exchange, __: Target, given: dict[str, Any]) -> dict[str, Any]:
        finished.append(given)
        return {**given, "finished": True}

    async with egress or Egress(LOOPBACK) as opened:
        pool = HttpPool(
            opened.dialer,
            connect_timeout_s=2.0,
            max_connections=max_connections,
            max_per_organization=max_connections,
            max_per_upstream=4,
            clock=clock,
        )
        states = RequestStates(KEYRING, 600.0)
        relay = ByteRelay(
            dialer=opened.dialer,
            pool=pool,
            credentials=credentials or SharedSecrets(KEYRING),
            states=states,
            finish=finish,
            recorder=recorder or CallRecorder(None),
            era=lambda _: Era.MODERN,
            connect=ConnectOnDemand(connector, states),
            breakers=breakers or UpstreamBreakers(),
            retries=Retries(sleep=sleep),
            forget_era=forgotten.append,
            limits=limits,
            stream_limits=stream_limits or StreamLimits(),
        )
        async with pool.run():
            yield Relaying(relay, pool, states, finished, forgotten)
