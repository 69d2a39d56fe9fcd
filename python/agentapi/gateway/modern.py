"""The front for clients of revision 2026-07-28: every request stands for itself (specification, "Streamable HTTP").

headers against body -> params -> router, or the relay where it serves the upstream. Nothing is kept between requests,
and a client takes a request back by leaving.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mcp import MCPError
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp.shared.subscriptions import LISTEN_STREAM_METHODS, SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_META_KEY,
    SERVER_INFO_META_KEY,
)
from starlette.datastructures import Headers
from starlette.responses import Response

import agentapi
from agentapi.errors import AgentAPIError, UpstreamNeedsConnectionError
from agentapi.gateway.call import check_accept, failure
from agentapi.gateway.exchange import ClientTraits, Exchange
from agentapi.gateway.forwarding import UpstreamResult
from agentapi.gateway.introductions import Introductions
from agentapi.gateway.listening import MAX_URIS, Changes, filter_of, interest_of
from agentapi.gateway.pages import RawResult
from agentapi.gateway.reply import Answer, Expiry, Reply
from agentapi.gateway.rpc import RpcRefusalError, check_params, result_message
from agentapi.upstreams.link import Era
from agentapi.upstreams.notices import LEVELS, passes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from agentapi.gateway.call import Call
    from agentapi.gateway.exchange import Relay, RequestRouter
    from agentapi.gateway.incoming import Incoming
    from agentapi.gateway.items import Target
    from agentapi.gateway.listening import OpenStreams
    from agentapi.gateway.reply import StreamLimits

__all__ = ["ModernFront"]

_SERVER_INFO: Final = {"name": "agentapi", "title": "AgentAPI", "version": agentapi.__version__}
_LISTEN: Final = "subscriptions/listen"
_LOG_MESSAGE: Final = "notifications/message"
_RELAYED: Final = frozenset(NAME_BEARING_METHODS)
_MIRROR_PREFIX: Final = MCP_PARAM_HEADER_PREFIX.lower()


class ModernFront:
    """Serves the POST requests of modern clients.

    Args:
        router: Answers requests.
        streams: Counts the streams of ``subscriptions/listen``.
        limits: Of every stream.
        relay: Passes requests on as bytes where it can.
    """

    def __init__(
        self, *, router: RequestRouter, streams: OpenStreams, limits: StreamLimits, relay: Relay | None = None
    ) -> None:
        self._router = router
        self._streams = streams
        self._limits = limits
        self._relay = relay
        self._introductions = Introductions()

    async def serve(self, call: Call, incoming: Incoming, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one message.

        Raises:
            RpcRefusalError: Its headers or its envelope are wrong; nothing has been sent.
            NotAcceptableError: The client does not take what would be sent.
        """
        headers = Headers(scope=scope)
        check_accept(scope["headers"])
        if incoming.envelope.kind == "response":
            raise RpcRefusalError(INVALID_REQUEST, "A client of this revision sends no responses.")
        if incoming.envelope.kind == "notification":
            # The revision has none that a client sends; whoever does is not owed an error for it.
            _check_version(headers)
            await Response(status_code=HTTPStatus.ACCEPTED)(scope, receive, send)
            return
        known = self._introductions.known(incoming, scope["headers"])
        client = known or _climb(incoming, headers)
        reply = Reply(receive, send, self._limits)
        exchange = Exchange(
            principal=call.principal,
            view=call.view,
            toolset=call.toolset,
            client=client,
            method=incoming.method,
            peer=_Peer(reply, incoming),
            expires_at=call.expires_at,
            incoming=incoming,
        )
        if incoming.method == _LISTEN:
            await reply.run(self._guard(call, incoming, lambda: self._listen(call, exchange, reply)))
            return
        try:
            if known is None:
                check_params(exchange.method, client.revision, exchange.params)
                self._introductions.remember(incoming, client)
            exchange = await self._router.meant(exchange)
            target = await self._target(exchange, headers)
        except UpstreamNeedsConnectionError as error:
            needed = self._router.connection_needed(exchange, error)
            await reply.run(self._guard(call, incoming, lambda: needed))
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told and the log has it
            answer = failure(call, Era.MODERN, incoming.id_json, error)
            await reply.run(_at_once(answer))
            return
        if self._relay is not None and target is not None and _is_relayed(self._relay, exchange, target):
            try:
                await self._relay.forward(exchange, target, scope, receive, send)
            except (AgentAPIError, MCPError) as error:
                # The relay raises only what it found out before it sent anything.
                answer = failure(call, Era.MODERN, incoming.id_json, error)
                await reply.run(_at_once(answer))
            return
        expiry = Expiry(call.expires_at, partial(failure, call, Era.MODERN, incoming.id_json))
        await reply.run(self._guard(call, incoming, lambda: self._router.answer(exchange)), expiry=expiry)

    async def _guard(self, call: Call, incoming: Incoming, work: Callable[[], Awaitable[dict[str, Any]]]) -> Answer:
        """Return what ``work`` comes to as a message."""
        try:
            return Answer(result_message(incoming.id_json, _introduced(await work())))
        except Exception as error:  # noqa: BLE001 - as above
            return failure(call, Era.MODERN, incoming.id_json, error)

    async def _target(self, exchange: Exchange, headers: Headers) -> Target | None:
        """Return the upstream that alone answers, where that matters here; its tool's headers are checked."""
        calls_tool = exchange.method == "tools/call"
        if exchange.connecting is not None:
            # Its user may still be on the way, and the router waits for them.
            return None
        if not calls_tool and (self._relay is None or exchange.method not in _RELAYED):
            return None
        target = await self._router.target(exchange)
        # Headers mirror the arguments of the tool that the client has named; inside it is not looked.
        if calls_tool and not exchange.inner and target is not None:
            _check_mirrored(target, exchange, headers)
        return target

    async def _listen(self, call: Call, exchange: Exchange, reply: Reply) -> dict[str, Any]:
        """Report changes until the client leaves, its token ends or the process stops."""
        check_params(exchange.method, exchange.client.revision, exchange.params)
        interest = interest_of(exchange.params)
        if len(interest.uris) > MAX_URIS:
            raise MCPError(code=INVALID_PARAMS, message=f"One stream reports at most {MAX_URIS} resources.")
        mark = {SUBSCRIPTION_ID_META_KEY: exchange.request_id}
        changes, ended = Changes(interest), asyncio.Event()
        with self._streams.admit(exchange.principal, ended.set):
            async with self._router.listen(exchange, interest, changes.add) as honored:
                changes.interest = honored
                acknowledged = {"notifications": filter_of(honored), "_meta": mark}
                await reply.notify("notifications/subscriptions/acknowledged", acknowledged)
                reporting = asyncio.ensure_future(changes.write_to(reply, mark))
                try:
                    async with asyncio.timeout(call.expires_at - time.time()):
                        await ended.wait()
                except TimeoutError:
                    pass
                finally:
                    reporting.cancel()
                    await asyncio.gather(reporting, return_exceptions=True)
        return {"resultType": "complete", "_meta": mark}


def _is_relayed(relay: Relay, exchange: Exchange, target: Target) -> bool:
    """Return whether the relay may pass the request on with the headers that the client sent."""
    # A call inside another came without headers that repeat its arguments; the router's way makes them.
    return relay.serves(target) and not (exchange.inner and target.mirrors)


class _Peer:
    """Where the messages of an upstream go that belong to one request."""

    def __init__(self, reply: Reply, incoming: Incoming) -> None:
        self._reply = reply
        self._incoming = incoming

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Write a notification, unless the client is not to get it on this stream."""
        if method in LISTEN_STREAM_METHODS:
            return
        # Without a level the client has not asked for messages (specification 2026-07-28, "Logging").
        if method == _LOG_MESSAGE:
            level = self._incoming.params["_meta"].get(LOG_LEVEL_META_KEY)
            if level not in LEVELS or not passes(params, level):
                return
        await self._reply.notify(method, params)

    async def ask(self, method: str, params: dict[str, Any]) -> NoReturn:  # noqa: ARG002 - of the protocol
        """Refuse: a modern client is asked with an ``input_required`` result."""
        raise NoBackChannelError(method)


def _check_mirrored(target: Target, exchange: Exchange, headers: Headers) -> None:
    """Refuse ``Mcp-Param-*`` headers that do not fit the tool that is called and its arguments.

    Raises:
        RpcRefusalError: They do not.
    """
    if target.definition is None or not target.mirrors:
        return
    arguments = exchange.params.get("arguments") or {}
    if not arguments and not any(name.startswith(_MIRROR_PREFIX) for name in headers):
        return
    rejection = validate_mcp_param_headers(target.definition.get("inputSchema"), arguments, headers)
    if rejection is not None:
        _refuse(rejection)


def _climb(incoming: Incoming, headers: Headers) -> ClientTraits:
    """Return what the client says of itself once headers and envelope agree.

    Raises:
        RpcRefusalError: They do not; the first thing that is wrong.
    """
    pairs = headers.items()
    duplicated = find_duplicated_routing_header(pairs)
    if duplicated is not None:
        message = f"The {duplicated} header appears more than once."
        raise RpcRefusalError(HEADER_MISMATCH, message, id_json=incoming.id_json)
    # Of several headers of one name the first counts, as with ``Headers``, which would search for each of them.
    verdict = classify_inbound_request(incoming.message, headers=dict(reversed(pairs)))
    if isinstance(verdict, InboundLadderRejection):
        _refuse(verdict, incoming.id_json)
    info = {} if verdict.client_info is None else verdict.client_info
    if not isinstance(verdict.client_capabilities, dict) or not isinstance(info, dict):
        message = "The client's capabilities or its self-introduction in _meta are not an object."
        raise RpcRefusalError(INVALID_PARAMS, message, id_json=incoming.id_json)
    return ClientTraits(Era.MODERN, verdict.protocol_version, verdict.client_capabilities, info)


def _check_version(headers: Headers) -> None:
    rejection = unsupported_protocol_version_rejection(headers.get(MCP_PROTOCOL_VERSION_HEADER, ""))
    if rejection is not None:
        _refuse(rejection)


def _refuse(rejection: InboundLadderRejection, id_json: bytes | None = None) -> NoReturn:
    raise RpcRefusalError(rejection.code, rejection.message, data=rejection.data, id_json=id_json)


def _introduced(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``result`` with the name of the software that produced it, which the gateway tells of itself alone.

    A modern upstream's is left as it came (specification 2026-07-28, ``ResultMetaObject``).
    """
    if isinstance(result, UpstreamResult):
        return result
    if isinstance(result, RawResult) and "_meta" not in result:
        return result.extended({"_meta": {SERVER_INFO_META_KEY: _SERVER_INFO}})
    return _marked(result, {SERVER_INFO_META_KEY: _SERVER_INFO})


def _marked(params: dict[str, Any], mark: dict[str, Any]) -> dict[str, Any]:
    meta = params.get("_meta")
    return {**params, "_meta": {**meta, **mark} if isinstance(meta, dict) else mark}


async def _at_once(answer: Answer) -> Answer:
    return answer
