"""One request on its way to its upstream and the answer back, translated where the two are of different eras.

====================  =========================================  ==========================================
client, upstream      modern                                     legacy
====================  =========================================  ==========================================
modern                passes; ``requestState`` sealed            questions become ``input_required``: ``parked``
legacy                ``input_required`` is asked out: ``bridge``  asked straight through
====================  =========================================  ==========================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp.shared.exceptions import NoBackChannelError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    URL_ELICITATION_REQUIRED,
)
from mcp_types.methods import CACHEABLE_METHODS, INPUT_REQUIRED_METHODS

from agentapi.gateway.bridge import RewritingPeer, is_input_required, with_rounds
from agentapi.gateway.questions import told_round
from agentapi.gateway.request_state import Binding
from agentapi.gateway.upstream_errors import told_error
from agentapi.upstreams.link import Caller, Era

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.gateway.exchange import Exchange, Visitor
    from agentapi.gateway.items import Target
    from agentapi.gateway.parked import ParkedCalls
    from agentapi.gateway.request_state import RequestStates
    from agentapi.gateway.rewrite import Rewriter
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.link import Peer

__all__ = ["Forwarder", "UpstreamResult", "caller_of"]

_ENVELOPE: Final = frozenset({PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY})
"""What of ``_meta`` the gateway writes itself, for the era of the upstream. Whatever else is there goes on."""


class UpstreamResult(dict[str, Any]):
    """A result of a modern upstream, which says itself what server produced it, or does not say."""


class Forwarder:
    """Sends requests to upstreams and makes their answers the client's.

    Args:
        client: Speaks to the upstreams.
        states: Seals what a client carries for an upstream.
        parked: Calls that wait for their users.
        timeout_s: Bound on one request to an upstream.
    """

    def __init__(self, *, client: UpstreamClient, states: RequestStates, parked: ParkedCalls, timeout_s: float) -> None:
        self._client = client
        self._states = states
        self._parked = parked
        self._timeout_s = timeout_s

    async def forward(self, exchange: Exchange, target: Target, rewriter: Rewriter) -> dict[str, Any]:
        """Send the request to its upstream and return the answer in the client's era and with public URIs.

        Raises:
            MCPError: The upstream's error, or one about what cannot be translated.
            AgentAPIError: The upstream cannot be reached, or what it asks for has no room.
        """
        caller, method = caller_of(exchange), exchange.method
        era = self._client.era(target.upstream) or (await self._client.profile(target.upstream, caller)).era
        params = self._own_params(exchange, target, era)

        async def send(extra: dict[str, Any], peer: Peer) -> dict[str, Any]:
            try:
                return await self._client.request(
                    target.upstream,
                    caller,
                    method,
                    {**params, **extra},
                    peer=peer,
                    timeout_s=self._timeout_s,
                    repeatable=target.repeatable,
                    definition=target.definition if method == "tools/call" else None,
                )
            except MCPError as error:
                client, name = exchange.client, target.upstream.name
                raise told_error(
                    error, upstream=name, era=era, declared=client.capabilities, client_era=client.era
                ) from None

        if exchange.client.era is Era.LEGACY:
            peer = RewritingPeer(exchange.peer, rewriter)
            return rewriter.result(method, _as_legacy(await with_rounds(lambda extra: send(extra, peer), peer)))
        if era is Era.MODERN:
            return self.finished(exchange, target, rewriter, await send({}, exchange.peer))
        return _as_modern(method, await self._legacy_answer(exchange, target, rewriter, lambda peer: send({}, peer)))

    def finished(
        self, exchange: Exchange, target: Target, rewriter: Rewriter, result: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what a modern client is to see of the result of a modern upstream.

        Raises:
            MCPError: The upstream asks what the client did not declare that it can be asked.
            UpstreamError: It asks in a way that the protocol does not have.
        """
        if is_input_required(result):
            result = told_round(target.upstream.name, exchange.client.capabilities, result)
        result = self._sealed(exchange, target, rewriter.result(exchange.method, result))
        return UpstreamResult(_as_modern(exchange.method, result))

    async def _legacy_answer(
        self, exchange: Exchange, target: Target, rewriter: Rewriter, send: Callable[[Peer], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Return what a legacy upstream answers a modern client, which cannot be asked but may be made to ask again."""
        method, client = exchange.method, exchange.client
        try:
            if method not in INPUT_REQUIRED_METHODS:
                return await send(_MutePeer(exchange.peer))
            binding = Binding.of(exchange, target)
            sealed = exchange.params.get("requestState")
            if sealed is not None:
                responses = exchange.params.get("inputResponses")
                result = await self._parked.resume(binding, exchange.peer, sealed, responses)
            else:
                result = await self._parked.begin(binding, client.capabilities, rewriter, exchange.peer, send)
        except MCPError as error:
            if error.code != URL_ELICITATION_REQUIRED:
                raise
            return _url_questions(error, target.upstream.name, client.capabilities)
        return result if is_input_required(result) else rewriter.result(method, result)

    def _own_params(self, exchange: Exchange, target: Target, era: Era) -> dict[str, Any]:
        """Return the params for the upstream: under its own names, without the envelope of the client's hop."""
        params = dict(exchange.params)
        if exchange.method == "completion/complete":
            params["ref"] = {**params["ref"], target.member: target.name}
        else:
            params[target.member] = target.name
        both_modern = exchange.client.era is era is Era.MODERN
        state = params.get("requestState")
        if not both_modern:
            # Nobody but this process answers for the client, so nothing reaches the upstream that it did not say here.
            params.pop("inputResponses", None)
            params.pop("requestState", None)
        elif state is not None:
            params["requestState"] = self._states.open(Binding.of(exchange, target), state)
        meta = params.pop("_meta", None)
        passed = {
            name: value for name, value in (meta.items() if isinstance(meta, dict) else ()) if name not in _ENVELOPE
        }
        if exchange.client.era is Era.LEGACY and era is Era.MODERN:
            # Until it sets a level a client of the older revisions is sent everything; a modern server sends nothing.
            passed.setdefault(LOG_LEVEL_META_KEY, "debug")
        return {**params, "_meta": passed} if passed else params

    def _sealed(self, exchange: Exchange, target: Target, result: dict[str, Any]) -> dict[str, Any]:
        state = result.get("requestState")
        if not is_input_required(result) or state is None:
            return result
        return {**result, "requestState": self._states.seal(Binding.of(exchange, target), str(state))}


class _MutePeer:
    """A client that can be told and not asked."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass on a notification."""
        await self._peer.notify(method, params)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Refuse.

        Raises:
            NoBackChannelError: Always.
        """
        del params
        raise NoBackChannelError(method)


def caller_of(visitor: Visitor) -> Caller:
    """Return on whose behalf the upstreams are spoken to."""
    client = visitor.client
    principal = visitor.principal
    return Caller(
        principal.org_id,
        principal.user_id,
        client.conversation,
        client.capabilities,
        client.info,
        principal.session_id,
    )


def _as_legacy(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in {"resultType", "ttlMs", "cacheScope"}}


def _as_modern(method: str, result: dict[str, Any]) -> dict[str, Any]:
    if is_input_required(result):
        return result
    if method in CACHEABLE_METHODS:
        # What a user may read with its own credential is no one else's, whatever the upstream thinks of it.
        return {"resultType": "complete", "ttlMs": 0, **result, "cacheScope": "private"}
    return {"resultType": "complete", **result}


def _url_questions(error: MCPError, upstream: str, declared: dict[str, Any]) -> dict[str, Any]:
    """Return the questions of a legacy error that says where the user must go first (specification 2025-11-25).

    The modern revision asks them as any other question; the retry is then a call like the first.

    Raises:
        MCPError: The client cannot be asked them, or there are none.
    """
    given = error.data.get("elicitations") if isinstance(error.data, dict) else None
    questions: dict[str, dict[str, Any]] = {
        f"url-{index}": {"method": "elicitation/create", "params": params}
        for index, params in enumerate(given if isinstance(given, list) else ())
        if isinstance(params, dict)
    }
    if not questions:
        raise error
    return told_round(upstream, declared, {"resultType": "input_required", "inputRequests": questions})
