"""A call that needs a connection which its caller does not have is answered with a link at which to make it.

=====================================  ====================================================================
client                                 answer
=====================================  ====================================================================
modern, opens URLs                     ``input_required`` with a URL elicitation; the retry waits for the
                                       connection for a while, since a client says yes when it opens the page
2025-11-25, opens URLs                 error -32042 with the elicitation; its session is told when it is done
any other                              an error whose text and data hold the address
=====================================  ====================================================================

The address carries no credential and is of use to the one who made the call alone: see ``oauth.connect``.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, URL_ELICITATION_REQUIRED
from mcp_types.methods import INPUT_REQUIRED_METHODS

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.gateway.request_state import Binding, InvalidRequestStateError
from agentapi.principal import UpstreamId
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.request_state import RequestStates
    from agentapi.principal import OrgId, Principal, UserId
    from agentapi.upstreams.link import Peer
    from agentapi.upstreams.models import Upstream

    _Place = tuple[OrgId, UserId, UpstreamId]

__all__ = ["ConnectOnDemand", "Connector"]

_KEY: Final = "agentapi-connect"
"""Names the question among those of an ``input_required`` result."""
_OURS: Final = UpstreamId(UUID(int=0))
"""Binds the state of such a question, so that no state of an upstream passes for one."""
_WITH_ELICITATION_ID: Final = "2025-11-25"
_LOOK_S: Final = 2.0
"""How often it is asked whether the connection is there, for the case that another process made it."""
_MAX_TOLD: Final = 1000


class Connector(Protocol):
    """Makes the addresses, and knows what has been connected."""

    def url(
        self, principal: Principal, upstream_id: UpstreamId, *, workspace: str = "", scopes: tuple[str, ...] = ()
    ) -> str:
        """Return where ``principal`` can connect to an upstream."""

    async def is_connected(self, principal: Principal, upstream: Upstream, scopes: tuple[str, ...]) -> bool:
        """Return whether it has, with these scopes."""


class ConnectOnDemand:
    """Answers calls that lack a connection.

    Args:
        connector: Makes the addresses; without one such a call is an error.
        states: Seal what a client carries between question and retry.
        wait_s: How long a retry waits for the connection.
    """

    def __init__(self, connector: Connector | None, states: RequestStates, *, wait_s: float = 60.0) -> None:
        self._connector = connector
        self._states = states
        self._wait_s = wait_s
        self._waiting: defaultdict[_Place, set[asyncio.Event]] = defaultdict(set)
        self._told: OrderedDict[str, tuple[_Place, Peer]] = OrderedDict()
        """Elicitations that sessions were told of and wait for the end of."""
        self._tasks: set[asyncio.Task[None]] = set()

    def resumed(self, exchange: Exchange) -> Exchange:
        """Return the request that is meant: a retry without the answer to the question asked here.

        Raises:
            MCPError: The user said no.
        """
        if exchange.envelope.has_plain_params:
            return exchange
        responses = exchange.params.get("inputResponses")
        if exchange.client.era is not Era.MODERN or not isinstance(responses, dict) or _KEY not in responses:
            return exchange
        try:
            state = self._states.open(_binding(exchange), exchange.params.get("requestState"))
        except InvalidRequestStateError:
            # Not a question of ours, or too old to count; the latter is asked again.
            return exchange
        given = responses[_KEY]
        if not isinstance(given, dict) or given.get("action") != "accept":
            raise MCPError(
                INVALID_REQUEST,
                "The call needs an account to be connected, and that was declined.",
                {"code": "connection_declined"},
            )
        dropped = {"inputResponses", "requestState"}
        params = {name: value for name, value in exchange.params.items() if name not in dropped}
        upstream_id, *scopes = state.split(" ")
        connecting = (UpstreamId(UUID(upstream_id)), tuple(scopes))
        return replace(exchange, incoming=exchange.incoming.rewritten(params), connecting=connecting)

    async def answered(
        self, exchange: Exchange, ask: Callable[[Exchange], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Return what ``ask`` comes to, or what ``asked`` says if that lacks a connection.

        Where the user is on the way to connect it waits for them first.

        Raises:
            MCPError: What ``asked`` raises.
            Exception: What ``ask`` raises otherwise.
        """
        if exchange.connecting is not None:
            await self._connected(exchange, *exchange.connecting)
        try:
            return await ask(exchange)
        except UpstreamNeedsConnectionError as error:
            return self.asked(exchange, error)

    def asked(self, exchange: Exchange, error: UpstreamNeedsConnectionError) -> dict[str, Any]:
        """Return the result that sends the user to connect.

        Raises:
            MCPError: The same as an error, for a client that knows no such result, or has been sent already.
            UpstreamNeedsConnectionError: Nobody knows an address.
        """
        if self._connector is None or error.upstream_id is None:
            raise error
        url = self._connector.url(
            exchange.principal, error.upstream_id, workspace=exchange.view.workspace.slug, scopes=error.scopes
        )
        elicitation = exchange.client.capabilities.get("elicitation")
        opens_urls = isinstance(elicitation, dict) and elicitation.get("url") is not None
        question = {"mode": "url", "message": error.message, "url": url}
        if opens_urls and exchange.client.era is Era.MODERN and exchange.method in INPUT_REQUIRED_METHODS:
            # Whoever has been sent there and comes back without it is not sent round in circles.
            if exchange.connecting != (error.upstream_id, error.scopes):
                state = " ".join((str(error.upstream_id), *error.scopes))
                return {
                    "resultType": "input_required",
                    "inputRequests": {_KEY: {"method": "elicitation/create", "params": question}},
                    "requestState": self._states.seal(_binding(exchange), state),
                }
        elif opens_urls and exchange.client.revision == _WITH_ELICITATION_ID:
            elicitation_id = self._remember(exchange, error.upstream_id)
            elicitations = [{**question, "elicitationId": elicitation_id}]
            raise MCPError(URL_ELICITATION_REQUIRED, error.message, {"elicitations": elicitations})
        message = f"{error.message} Connect at {url} and then make the call again."
        raise MCPError(INTERNAL_ERROR, message, {"code": error.code, "url": url, "scopes": list(error.scopes)})

    def changed(self, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId, gone: bool) -> None:
        """Look again: a connection has changed."""
        place = (org_id, user_id, upstream_id)
        for event in self._waiting.get(place, ()):
            event.set()
        if gone:
            return
        for elicitation_id in [name for name, (for_, _) in self._told.items() if for_ == place]:
            _, peer = self._told.pop(elicitation_id)
            task = asyncio.ensure_future(_tell(peer, elicitation_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connected(self, exchange: Exchange, upstream_id: UpstreamId, scopes: tuple[str, ...]) -> None:
        """Wait until the user has connected, or has had the time to."""
        upstream = next((each for each in exchange.view.upstreams if each.id == upstream_id), None)
        if self._connector is None or upstream is None:
            return
        place = (exchange.principal.org_id, exchange.principal.user_id, upstream.id)
        event = asyncio.Event()
        self._waiting[place].add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s):
                    while not await self._connector.is_connected(exchange.principal, upstream, scopes):
                        event.clear()
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(_LOOK_S):
                                await event.wait()
        finally:
            self._waiting[place].discard(event)
            if not self._waiting[place]:
                del self._waiting[place]

    def _remember(self, exchange: Exchange, upstream_id: UpstreamId) -> str:
        elicitation_id = secrets.token_urlsafe(12)
        if exchange.client.conversation:
            place = (exchange.principal.org_id, exchange.principal.user_id, upstream_id)
            self._told[elicitation_id] = (place, exchange.peer)
            if len(self._told) > _MAX_TOLD:
                self._told.popitem(last=False)
        return elicitation_id


def _binding(exchange: Exchange) -> Binding:
    params = exchange.params
    name = str(params.get("name") or params.get("uri") or "")
    return Binding(exchange.principal, _OURS, f"connect {exchange.method}", name, params.get("arguments"))


async def _tell(peer: Peer, elicitation_id: str) -> None:
    # The session may be gone, and then nobody waits.
    with contextlib.suppress(Exception):
        await peer.notify("notifications/elicitation/complete", {"elicitationId": elicitation_id})
