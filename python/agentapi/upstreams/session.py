"""One open conversation with an upstream over any transport, in either era.

Messages pass as JSON objects. Requests go out under ids of our own, so that a client's id and progress token never
reach an upstream; what the upstream sends meanwhile goes to the ``Peer`` of the request it belongs to, in order, and
all of it before the answer.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import anyio
import structlog
from mcp import MCPError
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types import LOG_LEVEL_META_KEY

from agentapi.errors import UpstreamError, UpstreamTimeoutError
from agentapi.upstreams.calls import Call, current_call
from agentapi.upstreams.envelope import GATEWAY_INFO, MirroredParams, header_map, modern_headers, modern_meta
from agentapi.upstreams.failures import HttpRefusalError, is_http_refusal, judge
from agentapi.upstreams.inbox import Inbox
from agentapi.upstreams.link import Bounds, Era, Profile
from agentapi.upstreams.lists import LIST_METHODS, MAX_LIST_BYTES
from agentapi.upstreams.models import Transport
from agentapi.upstreams.negotiation import negotiate
from agentapi.upstreams.notices import Asked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from anyio.abc import TaskGroup, TaskStatus
    from mcp.client._transport import TransportStreams
    from mcp.shared.dispatcher import CallOptions, DispatchContext
    from mcp.shared.transport_context import TransportContext

    from agentapi.upstreams.channel import Channel
    from agentapi.upstreams.link import Caller, Peer

__all__ = ["Link", "open_link"]

_log = structlog.get_logger(__name__)

_UNBOUNDED: Final = Bounds()

_PIPE_PROBE_S: Final = 4.0
"""How long a server on a pipe may think about ``server/discover`` before it counts as one that does not know it."""


class Link:
    """A connection whose server has introduced itself. Made by ``open_link``."""

    profile: Profile

    def __init__(self, channel: Channel, streams: TransportStreams, inbox: Inbox, tasks: TaskGroup, name: str) -> None:
        self.name = name
        self.inbox = inbox
        self.tasks = tasks
        """Where what lasts as long as the link may run; nothing in it may raise."""
        self.closed = anyio.Event()
        self._channel = channel
        self._read = streams[0]
        self._dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(*streams)
        self._ids = itertools.count(1)
        self._mirrored = MirroredParams()
        self._log_level: str | None = None
        self.subscriptions: Counter[str] = Counter()
        """How many listen to each resource of a legacy server."""
        self.subscribing = anyio.Lock()

    def is_alive(self) -> bool:
        """Return whether a request could be sent now."""
        return not self.closed.is_set() and self._channel.alive()

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        caller: Caller,
        timeout_s: float,
        bounds: Bounds = _UNBOUNDED,
        peer: Peer | None = None,
        definition: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the raw result of ``method``.

        Args:
            method: Of the protocol.
            params: As the client gave them, without an envelope.
            caller: Who asks; a modern server is told of it with each request.
            timeout_s: Bound on the answer; it stands still while the client is asked something.
            bounds: On all of that.
            peer: Where messages go that come before the answer.
            definition: Of the tool that is called, where the caller knows it.

        Raises:
            MCPError: The upstream's own error, unchanged.
            UpstreamTimeoutError: No answer in time.
            UpstreamError: The connection broke, or the answer is none.
        """
        meta = dict(params.get("_meta") or {})
        level = meta.pop(LOG_LEVEL_META_KEY, None)
        call = self._call(timeout_s, peer, bounds.time_s)
        call.max_answer_bytes = MAX_LIST_BYTES if method in LIST_METHODS else bounds.size_bytes
        call.progress_token = meta.pop("progressToken", None)
        if call.progress_token is not None:
            meta["progressToken"] = call.request_id
        call.asked = Asked.of({**meta, LOG_LEVEL_META_KEY: "debug" if self.inbox.chatty else level})
        headers = self._legacy_headers
        if self.profile.era is Era.MODERN:
            mirrored = header_map(definition) if definition is not None else self._mirrored.of(params.get("name"))
            headers = modern_headers(self.profile.revision, method, params, mirrored if method == "tools/call" else {})
            meta |= modern_meta(self.profile.revision, caller.capabilities, caller.client_info)
            if level is not None:
                meta[LOG_LEVEL_META_KEY] = level
        elif level is not None and level != self._log_level and "logging" in self.profile.capabilities:
            # A legacy server keeps the level for the whole session.
            await self.request("logging/setLevel", {"level": level}, caller=caller, timeout_s=timeout_s)
        passed = {member: value for member, value in params.items() if member != "_meta"}
        if meta:
            passed["_meta"] = meta
        result = await self._judged(call, method, passed, headers)
        if method == "tools/list":
            self._mirrored.learn(result)
        elif method == "logging/setLevel":
            self._log_level = params.get("level")
        return result

    async def subscribe(self, key: str, wanted: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Send ``subscriptions/listen`` under the id ``key``; it returns when the server ends the subscription.

        Raises:
            MCPError: The upstream refused.
            UpstreamError: The connection broke.
        """
        method = "subscriptions/listen"
        meta = modern_meta(self.profile.revision, caller.capabilities, caller.client_info)
        params = {"notifications": wanted, "_meta": meta}
        headers = modern_headers(self.profile.revision, method, params, {})
        return await self._judged(Call(key, anyio.CancelScope(), is_subscription=True), method, params, headers)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification to a legacy server; it is lost where the connection is."""
        await self._notify(method, params, self._legacy_headers)

    async def ping(self, timeout_s: float) -> bool:
        """Return whether a legacy server still answers."""
        try:
            await self._judged(self._call(timeout_s), "ping", {}, self._legacy_headers)
        except MCPError:
            # It does not know ping, and is alive all the same.
            return True
        except UpstreamError:
            return False
        return True

    async def introduce(
        self, *, era: Era | None, capabilities: Mapping[str, Any], client_info: Mapping[str, Any], timeout_s: float
    ) -> None:
        """Find out the era and shake hands; once, before anything else.

        Raises:
            Exception: Whatever was in the way, for ``reason_of``.
        """
        on_pipe = self._channel.kind is Transport.STDIO
        self.profile = await negotiate(
            self,
            era=Era.LEGACY if self._channel.kind is Transport.SSE else era,
            capabilities=capabilities,
            client_info=client_info or GATEWAY_INFO,
            probe_s=min(_PIPE_PROBE_S, timeout_s / 2) if on_pipe else timeout_s,
            handshake_s=timeout_s,
        )

    async def negotiate_with(
        self, method: str, params: dict[str, Any], *, headers: dict[str, str], timeout_s: float
    ) -> dict[str, Any]:
        """Send a request of the negotiation, which is never cancelled; see ``negotiation.Wire``."""
        call = self._call(timeout_s)
        try:
            return await self._send(call, method, params, headers, cancellable=False)
        except MCPError as error:
            if is_http_refusal(error, call.status):
                raise HttpRefusalError(call.status or 0) from None
            raise

    async def announce(self, method: str, headers: dict[str, str]) -> None:
        """Send a notification of the negotiation."""
        await self._notify(method, None, headers)

    async def pump(self, *, task_status: TaskStatus[None]) -> None:
        """Read until the connection ends."""
        try:
            await self._dispatcher.run(self.inbox.answer, _ignore, self._sort, task_status=task_status)
        finally:
            self.closed.set()

    def _sort(self, method: str, params: Mapping[str, Any] | None) -> bool:
        if method == "notifications/cancelled":
            return False
        context = getattr(self._read, "last_context", None)
        sender = context.get(current_call) if context is not None else None
        self.inbox.sort(method, dict(params or {}), sender)
        return True

    @property
    def _legacy_headers(self) -> dict[str, str]:
        return {MCP_PROTOCOL_VERSION_HEADER: self.profile.revision}

    def _call(self, timeout_s: float, peer: Peer | None = None, whole_s: float = math.inf) -> Call:
        now = anyio.current_time()
        scope = anyio.CancelScope(deadline=now + min(timeout_s, whole_s))
        return Call(next(self._ids), scope, timeout_s, peer, whole_s=whole_s, end_s=now + whole_s)

    async def _judged(self, call: Call, method: str, params: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        try:
            return await self._send(call, method, params, headers)
        except Exception as error:
            verdict = judge(
                error,
                call,
                self.name,
                in_session=self.profile.era is Era.LEGACY,
                on_pipe=self._channel.kind is Transport.STDIO,
                ending=self._channel.ending(),
            )
            if verdict is error:
                raise
            raise verdict from error

    async def _send(
        self, call: Call, method: str, params: dict[str, Any], headers: dict[str, str], *, cancellable: bool = True
    ) -> dict[str, Any]:
        options: CallOptions = {
            "request_id": call.request_id,
            "headers": headers,
            "cancel_on_abandon": cancellable,
        }
        token = current_call.set(call)
        self.inbox.begin(call)
        result: dict[str, Any] | None = None
        try:
            with call.scope:
                try:
                    result = await self._dispatcher.send_raw_request(method, params, options)
                except MCPError:
                    await call.deliver()
                    raise
                # What came before the answer is the client's before the answer.
                await call.deliver()
        except MCPError:
            if call.failure is not None:
                raise call.failure from None
            raise
        finally:
            self.inbox.end(call)
            if call.dropped:
                _log.info("notifications_dropped", upstream=self.name, count=call.dropped)
            current_call.reset(token)
        if result is None:
            if call.failure is None and anyio.current_time() >= call.end_s:
                raise UpstreamTimeoutError(
                    f"Upstream '{self.name}' did not complete its answer within {call.whole_s:g} s."
                )
            raise call.failure or TimeoutError
        return result

    async def _notify(self, method: str, params: Mapping[str, Any] | None, headers: dict[str, str]) -> None:
        token = current_call.set(None)
        try:
            await self._dispatcher.notify(method, params, {"headers": headers})
        finally:
            current_call.reset(token)


@contextlib.asynccontextmanager
async def open_link(
    channel: Channel,
    *,
    name: str,
    timeout_s: float,
    era: Era | None = None,
    capabilities: Mapping[str, Any] | None = None,
    client_info: Mapping[str, Any] | None = None,
    bound: bool = False,
    chatty: bool = False,
    hear: Callable[[str, dict[str, Any]], None] = lambda _method, _params: None,
) -> AsyncIterator[Link]:
    """Open the transport of ``channel``, shake hands and yield the link.

    Args:
        channel: The transport, not yet entered.
        name: Of the upstream, for words about a failure.
        timeout_s: Bound on the handshake.
        era: What is known of the server already.
        capabilities: What of the client a legacy server may ask for.
        client_info: Name and version that a legacy server is told.
        bound: As for ``Inbox``.
        chatty: As for ``Inbox``.
        hear: As for ``Inbox``.

    Raises:
        Exception: Whatever was in the way, for ``reason_of``; a group of the SDK's included.
    """
    declared = dict(capabilities or {})
    async with channel.streams as streams, anyio.create_task_group() as tasks:
        inbox = Inbox(tasks, askable=declared, bound=bound, chatty=chatty, hear=hear, calls=channel.calls)
        link = Link(channel, streams, inbox, tasks, name)
        try:
            await tasks.start(link.pump)
            await link.introduce(era=era, capabilities=declared, client_info=client_info or {}, timeout_s=timeout_s)
            yield link
        finally:
            tasks.cancel_scope.cancel()


async def _ignore(_context: DispatchContext[TransportContext], _method: str, _params: Mapping[str, Any] | None) -> None:
    """Do nothing: every notification has been sorted already."""
