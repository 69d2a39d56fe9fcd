"""The front for clients of the revisions 2024-11-05 to 2025-11-25 over Streamable HTTP.

POST carries requests, notifications and responses; GET opens the stream of a session; DELETE ends the session. A
session begins with ``initialize``. A request without one is served as well, and then its client can be asked nothing.

Streams are not resumed: a client that loses the stream of a request has lost its answer, so the request is cancelled
for it rather than worked on for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
from mcp import MCPError
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import DEFAULT_NEGOTIATED_VERSION, INVALID_REQUEST, LOG_LEVEL_META_KEY, METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from starlette.datastructures import Headers
from starlette.responses import Response

import agentapi
from agentapi.errors import AgentAPIError, MethodNotAllowedError
from agentapi.gateway.call import check_accept, failure
from agentapi.gateway.capabilities import required_capability
from agentapi.gateway.exchange import ClientTraits, Exchange, Visitor
from agentapi.gateway.reply import Answer, Expiry, Reply
from agentapi.gateway.rpc import REQUEST_CANCELLED, check_params, error_message, result_message
from agentapi.gateway.session_ids import UnknownSessionError
from agentapi.gateway.standing import StandingStream, visitor_of
from agentapi.upstreams.link import Era
from agentapi.upstreams.notices import passes

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from agentapi.gateway.call import Call
    from agentapi.gateway.conversations import Conversation, Conversations
    from agentapi.gateway.exchange import RequestRouter
    from agentapi.gateway.incoming import Incoming
    from agentapi.gateway.listening import OpenStreams
    from agentapi.gateway.reply import StreamLimits
    from agentapi.gateway.session_ids import Session, SessionIds

__all__ = ["LegacyFront"]

_log = structlog.get_logger(__name__)

_SESSION_HEADER: Final = "mcp-session-id"
_LOG_MESSAGE: Final = "notifications/message"
_CAPABILITY_OF: Final = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a client has to have declared for each request that it can be asked."""


class LegacyFront:
    """Serves the requests of older clients.

    Args:
        router: Answers requests.
        ids: Issues and opens session ids.
        conversations: What is kept of sessions.
        streams: Counts the streams of GET requests.
        limits: Of every stream.
        answer_timeout_s: Time in which a client has to answer what it is asked.
    """

    def __init__(
        self,
        *,
        router: RequestRouter,
        ids: SessionIds,
        conversations: Conversations,
        streams: OpenStreams,
        limits: StreamLimits,
        answer_timeout_s: float,
    ) -> None:
        self._router = router
        self._ids = ids
        self._conversations = conversations
        self._streams = streams
        self._limits = limits
        self._answer_timeout_s = answer_timeout_s

    async def serve(self, call: Call, incoming: Incoming | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; only a POST has a message.

        Raises:
            UnknownSessionError: The session id is none of the caller's here; nothing has been sent.
            NotAcceptableError: The client does not take what would be sent.
            MethodNotAllowedError: Without a session there is nothing to GET or DELETE.
        """
        headers = Headers(scope=scope)
        if incoming is not None:
            check_accept(scope["headers"])
        session = self._session(headers, call, incoming)
        conversation = self._conversations.of(session) if session is not None else None
        if incoming is None:
            if session is None or conversation is None:
                raise MethodNotAllowedError("Without a session the endpoint answers POST only.")
            if scope["method"] == "GET":
                check_accept(scope["headers"], json_too=False)
                await self._stream(call, session, conversation, Reply(receive, send, self._limits, at_once=True))
            else:
                await self._end(call, session)
                await Response(status_code=HTTPStatus.NO_CONTENT)(scope, receive, send)
            return
        client = session.client if session is not None else _stranger(headers)
        if incoming.envelope.kind == "request":
            await self._request(call, incoming, client, conversation, Reply(receive, send, self._limits))
            return
        if incoming.envelope.kind == "response":
            if conversation is not None:
                conversation.answered(incoming.message)
        else:
            await self._notification(visitor_of(call, client), conversation, incoming)
        await Response(status_code=HTTPStatus.ACCEPTED)(scope, receive, send)

    def _session(self, headers: Headers, call: Call, incoming: Incoming | None) -> Session | None:
        given = headers.getlist(_SESSION_HEADER)
        if not given or (incoming is not None and incoming.method == "initialize"):
            return None
        if len(given) > 1:
            raise UnknownSessionError("several_ids")
        return self._ids.open(given[0], call)

    async def _request(
        self,
        call: Call,
        incoming: Incoming,
        client: ClientTraits,
        conversation: Conversation | None,
        reply: Reply,
    ) -> None:
        exchange = Exchange(
            principal=call.principal,
            view=call.view,
            toolset=call.toolset,
            client=client,
            method=incoming.method,
            peer=_Peer(reply, client, conversation, self._answer_timeout_s),
            expires_at=call.expires_at,
            incoming=incoming.read_as(_with_level(incoming.params, conversation)),
        )
        error = {"code": REQUEST_CANCELLED, "message": "The client has cancelled the request."}
        cancelled = Answer(error_message(incoming.id_json, error))
        failed = partial(failure, call, Era.LEGACY, incoming.id_json)
        work = self._answer(call, incoming, exchange, conversation)
        await reply.run(work, cancelled=cancelled, expiry=Expiry(call.expires_at, failed))

    async def _answer(
        self, call: Call, incoming: Incoming, exchange: Exchange, conversation: Conversation | None
    ) -> Answer:
        try:
            if exchange.method == "initialize":
                return await self._initialize(call, incoming)
            check_params(exchange.method, exchange.client.revision, incoming.params)
            with conversation.tracking(exchange.request_id) if conversation is not None else contextlib.nullcontext():
                result = await self._result(exchange, conversation)
            return Answer(result_message(incoming.id_json, result))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told and the log has it
            return failure(call, Era.LEGACY, incoming.id_json, error)

    async def _initialize(self, call: Call, incoming: Incoming) -> Answer:
        """Begin a session (specification 2025-11-25, "Lifecycle" and "Session Management")."""
        params = incoming.params
        check_params("initialize", LATEST_HANDSHAKE_VERSION, params)
        asked = params["protocolVersion"]
        revision = asked if asked in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION
        capabilities, info = params["capabilities"], params["clientInfo"]
        session_id = self._ids.issue(call, revision=revision, capabilities=capabilities, info=info)
        client = ClientTraits(Era.LEGACY, revision, capabilities, info)
        visitor = visitor_of(call, client)
        result: dict[str, Any] = {
            "protocolVersion": revision,
            "capabilities": await self._router.capabilities(visitor),
            "serverInfo": {"name": "agentapi", "title": "AgentAPI", "version": agentapi.__version__},
        }
        if (instructions := await self._router.instructions(visitor)) is not None:
            result["instructions"] = instructions
        header = (_SESSION_HEADER.encode(), session_id.encode())
        return Answer(result_message(incoming.id_json, result), headers=(header,))

    async def _result(self, exchange: Exchange, conversation: Conversation | None) -> dict[str, Any]:
        match exchange.method:
            case "ping":
                return {}
            case "logging/setLevel":
                if conversation is not None:
                    conversation.log_level = exchange.params["level"]
                return {}
            case "resources/subscribe" | "resources/unsubscribe" if conversation is None:
                raise MCPError(code=INVALID_REQUEST, message="Only a client with a session can subscribe.")
            case _:
                result = await self._router.answer(exchange)
        if conversation is not None and exchange.method == "resources/subscribe":
            conversation.subscribe(exchange.params["uri"])
            # Whoever has the answer is told of whatever changes after it.
            await conversation.caught_up.wait()
        elif conversation is not None and exchange.method == "resources/unsubscribe":
            conversation.unsubscribe(exchange.params["uri"])
        return result

    async def _notification(self, visitor: Visitor, conversation: Conversation | None, incoming: Incoming) -> None:
        if incoming.method == "notifications/cancelled":
            if conversation is not None:
                conversation.cancel(incoming.params.get("requestId"))
        elif incoming.method != "notifications/initialized" and conversation is not None:
            try:
                await self._router.notified(visitor, incoming.method, incoming.params)
            except (AgentAPIError, MCPError) as error:
                # Nobody is owed an answer to a notification.
                _log.info("notification_lost", method=incoming.method, reason=str(error))

    async def _stream(self, call: Call, session: Session, conversation: Conversation, reply: Reply) -> None:
        ended = asyncio.Event()
        standing = StandingStream(self._router, call, session, conversation)
        with self._streams.admit(call.principal, ended.set), conversation.stand(reply, ended.set):
            await reply.run(standing.report(reply, ended))

    async def _end(self, call: Call, session: Session) -> None:
        self._conversations.end(session)
        await self._router.ended(visitor_of(call, session.client))


class _Peer:
    """Where the messages of an upstream go that belong to one request."""

    def __init__(
        self, reply: Reply, client: ClientTraits, conversation: Conversation | None, answer_timeout_s: float
    ) -> None:
        self._reply = reply
        self._client = client
        self._conversation = conversation
        self._answer_timeout_s = answer_timeout_s

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Write a notification on the stream of the request, or on that of the session once it is answered."""
        conversation = self._conversation
        level = conversation.log_level if conversation is not None else None
        if method == _LOG_MESSAGE and level is not None and not passes(params, level):
            return
        written = await self._reply.notify(method, params)
        if not written and conversation is not None and conversation.standing is not None:
            await conversation.standing.notify(method, params)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the client.

        Raises:
            MCPError: It has no session or did not declare that it can be asked this, or what ``Conversation.ask`` says.
        """
        if self._conversation is None:
            raise NoBackChannelError(method)
        capability = _CAPABILITY_OF.get(method)
        if capability is None:
            raise MCPError(code=METHOD_NOT_FOUND, message="A client cannot be asked this.", data={"method": method})
        if required_capability(self._client.capabilities, method, params) is not None:
            raise MCPError(code=INVALID_REQUEST, message=f"The client has not declared the capability '{capability}'.")
        return await self._conversation.ask(self._reply, method, params, timeout_s=self._answer_timeout_s)


def _stranger(headers: Headers) -> ClientTraits:
    """Return what is known of a client without a session: its revision, where it says so."""
    return ClientTraits(Era.LEGACY, headers.get(MCP_PROTOCOL_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION))


def _with_level(params: dict[str, Any], conversation: Conversation | None) -> dict[str, Any]:
    """Return ``params`` with the level of log messages that holds for the session."""
    if conversation is None or conversation.log_level is None:
        return params
    meta = params.get("_meta") or {}
    return {**params, "_meta": {**meta, LOG_LEVEL_META_KEY: conversation.log_level}}
