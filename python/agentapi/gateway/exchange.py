"""One request of a client under way, as the fronts of both eras hand it to the router, and what they expect of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.types import Receive, Scope, Send

    from agentapi._core import Envelope
    from agentapi.errors import UpstreamNeedsConnectionError
    from agentapi.gateway.incoming import Incoming
    from agentapi.gateway.items import Target
    from agentapi.principal import Principal, UpstreamId
    from agentapi.upstreams.link import Era, Peer
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["ClientTraits", "Exchange", "Interest", "Relay", "RequestRouter", "Visitor"]


@dataclass(frozen=True, slots=True)
class ClientTraits:
    """What a client said of itself, with this request or when its session began."""

    era: Era
    revision: str
    capabilities: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    conversation: str = ""
    """The session of a client of the older revisions, empty for a modern one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who speaks, and to which workspace."""

    principal: Principal
    view: WorkspaceView
    toolset: str | None
    client: ClientTraits


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Visitor):
    """Who asks for what, and where messages go that come before the answer."""

    method: str
    peer: Peer
    expires_at: float
    """When the access token ends, in Unix seconds."""
    incoming: Incoming = field(repr=False)
    """The message itself."""
    inner: bool = False
    """Whether this is the call that the client asked for through the tool ``call_tool`` of search mode."""
    connecting: tuple[UpstreamId, tuple[str, ...]] | None = None
    """The connection, with scopes, that its user was sent to make, if the client says that they went."""

    @property
    def envelope(self) -> Envelope:
        """What the scan found in the message."""
        return self.incoming.envelope

    @property
    def name(self) -> str | None:
        """The name in the params, if it is a string."""
        return self.incoming.envelope.name

    @property
    def params(self) -> dict[str, Any]:
        """The params as an object, which nothing on the way of a plain call should ask for."""
        return self.incoming.params

    @property
    def request_id(self) -> str | int:
        """The id of the request."""
        if self.incoming.envelope.id is None:
            raise AssertionError(self.method)
        return self.incoming.envelope.id


@dataclass(frozen=True, slots=True)
class Interest:
    """What a client wants to be told of when it changes; ``uris`` are as the client writes them."""

    tools: bool = False
    prompts: bool = False
    resources: bool = False
    uris: frozenset[str] = frozenset()


class RequestRouter(Protocol):
    """What the fronts ask of the router.

    ``initialize``, ``ping``, ``logging/setLevel`` and ``subscriptions/listen`` are the fronts' own. The level that a
    client of the older revisions chose comes with each of its requests as ``io.modelcontextprotocol/logLevel``.
    ``resources/subscribe`` and ``unsubscribe`` are asked for their answer alone, ``{}`` or an error; the front keeps
    the address and listens to it.
    """

    async def answer(self, exchange: Exchange) -> dict[str, Any]:
        """Return the result of any other request.

        Raises:
            MCPError: An error of the protocol, passed on as it is.
            AgentAPIError: Everything else that was foreseen.
        """

    async def connection_needed(self, exchange: Exchange, error: UpstreamNeedsConnectionError) -> dict[str, Any]:
        """Return the result that sends the user of a request to connect, which ``target`` found to be needed.

        Raises:
            MCPError: The same as an error.
            AgentAPIError: Nobody knows where.
        """

    async def meant(self, exchange: Exchange) -> Exchange:
        """Return the request that is meant, itself but for a call through a tool that only stands for another.

        Raises:
            AgentAPIError: It stands for none.
        """

    async def target(self, exchange: Exchange) -> Target | None:
        """Return the upstream that alone answers what is meant, or None; it has a ``definition`` if it is a tool."""

    async def capabilities(self, visitor: Visitor) -> dict[str, Any]:
        """Return the capabilities that a client of the older revisions is told of; upstreams may be asked first."""

    async def instructions(self, visitor: Visitor) -> str | None:
        """Return what the upstreams have a client's model told; where it is None there is nothing to say."""

    async def notified(self, visitor: Visitor, method: str, params: dict[str, Any]) -> None:
        """Take note of a notification of a client of the older revisions, such as that its roots changed."""

    def listen(
        self, visitor: Visitor, interest: Interest, on_event: Callable[[str, dict[str, Any]], None]
    ) -> AbstractAsyncContextManager[Interest]:
        """Report the changes that ``visitor`` may know of until the context ends; it yields what is reported.

        ``on_event`` is given the notification's method and params as the client is to see them. It returns at once.
        """

    async def ended(self, visitor: Visitor) -> None:
        """Let go of what was held for a conversation that its client has ended."""


class Relay(Protocol):
    """Passes requests on as bytes."""

    def serves(self, target: Target) -> bool:
        """Return whether requests for ``target`` can be passed on so."""

    async def forward(self, exchange: Exchange, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and stream the answer back.

        Raises:
            MCPError: The request has an error for its answer, and nothing has been sent.
            AgentAPIError: Likewise; once something is sent, a failure ends the stream.
        """
