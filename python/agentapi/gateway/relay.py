"""The relay: a modern request to a modern HTTP upstream passes as bytes, and so does the answer.

Invariants:

* The body goes out as it came but for the upstream's own name of the thing and the opened ``requestState``, both
  spliced in where the scan found them; nothing is written anew.
* Of the client's headers only those of the protocol and of tracing pass. What authenticates the client, or says where
  it is, does not; the credential is the upstream's own.
* A request is sent once. Only one that may be repeated is: at once, when the server had closed a connection that lay
  idle, and after a wait, when the connection broke or the server is busy; never when the client has heard of it. One
  whose credential the server refused, and a user's own, is sent once more with another: the server has not acted on it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog
from mcp import MCPError

from agentapi.egress.http1 import ConnectionEndedError
from agentapi.errors import (
    AgentAPIError,
    AuditUnavailableError,
    UpstreamError,
    UpstreamNeedsConnectionError,
    UpstreamTimeoutError,
    UpstreamUnaskedError,
)
from agentapi.gateway.forwarding import caller_of
from agentapi.gateway.relay_answer import ClientStream
from agentapi.gateway.relay_passage import Passage
from agentapi.gateway.relay_request import Wires, request_pieces
from agentapi.gateway.reply import Answer
from agentapi.gateway.request_state import Binding
from agentapi.gateway.rpc import result_message
from agentapi.request_body import ClientGoneError
from agentapi.upstreams.breakers import Operation
from agentapi.upstreams.credentials import with_credential
from agentapi.upstreams.link import Era
from agentapi.upstreams.models import Transport
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from agentapi.egress.dialer import Dialer
    from agentapi.gateway.connect_on_demand import ConnectOnDemand
    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.items import Target
    from agentapi.gateway.recording import CallRecorder, Record
    from agentapi.gateway.relay_passage import Finish, RelayLimits
    from agentapi.gateway.relay_request import Wire
    from agentapi.gateway.reply import StreamLimits
    from agentapi.gateway.request_state import RequestStates
    from agentapi.principal import UpstreamId, UserId
    from agentapi.upstreams.breakers import UpstreamBreakers
    from agentapi.upstreams.credentials import Credential, Credentials
    from agentapi.upstreams.http_pool import HttpPool, Pooled
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.retries import Retries

__all__ = ["ByteRelay"]

_log = structlog.get_logger(__name__)


class ByteRelay:
    """Passes requests on.

    Args:
        dialer: Checks URLs.
        pool: Lends connections.
        credentials: With which upstreams are called.
        states: Opens what upstreams gave clients to carry.
        finish: Rewrites results.
        recorder: Writes what becomes of calls into the audit log.
        era: What is known of an upstream.
        connect: Answers calls that lack a connection.
        breakers: The circuits in front of upstreams.
        retries: Tries again what may be.
        forget_era: Called with one that answered as if that were not so any more.
        limits: On time and size.
        stream_limits: On the stream to the client.
    """

    def __init__(
        self,
        *,
        dialer: Dialer,
        pool: HttpPool,
        credentials: Credentials,
        states: RequestStates,
        finish: Finish,
        recorder: CallRecorder,
        era: Callable[[Upstream], Era | None],
        connect: ConnectOnDemand,
        breakers: UpstreamBreakers,
        retries: Retries,
        forget_era: Callable[[Upstream], None],
        limits: RelayLimits,
        stream_limits: StreamLimits,
    ) -> None:
        self._pool = pool
        self._credentials = credentials
        self._wires = Wires(dialer)
        self._states = states
        self._finish = finish
        self._recorder = recorder
        self._era = era
        self._connect = connect
        self._breakers = breakers
        self._retries = retries
        self._forget_era = forget_era
        self._limits = limits
        self._stream_limits = stream_limits

    def serves(self, target: Target) -> bool:
        """Return whether requests for ``target`` can be passed on so: its upstream is known to be of the modern era."""
        return target.upstream.transport is Transport.HTTP and self._era(target.upstream) is Era.MODERN

    def close_user(self, upstream_id: UpstreamId, user_id: UserId) -> None:
        """Forget what carries a user's credential that has changed or is gone."""
        self._wires.forget(upstream_id, user_id)
        self._pool.close(lambda key: key.upstream_id == upstream_id and key.user_id == user_id)

    async def forward(self, exchange: Exchange, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and stream the answer back; every failure becomes a JSON-RPC error.

        The answer is sent once it is recorded; what precedes it on a stream has been sent by then.

        Raises:
            AuditUnavailableError: It could not be recorded, so that it is not begun.
        """
        record = self._recorder.begin(exchange, target)
        stream = ClientStream(send, self._stream_limits, exchange.expires_at)
        passage = Passage(exchange, target, stream=stream, receive=receive, limits=self._limits, finish=self._finish)
        try:
            try:
                answer = await self._pass(passage, scope, stream)
            except UpstreamNeedsConnectionError as error:
                answer = self._needed(passage, error)
                if record is not None:
                    await record.failed(error)
                    record = None
            except (MCPError, AgentAPIError) as error:
                answer = passage.failure(error)
            if record is not None:
                answer = await _recorded(record, passage, answer)
            await stream.finish(answer)
        except ClientGoneError:
            _log.debug("client_gone", upstream=target.upstream.name)
        finally:
            if record is not None:
                record.abandoned()
            await self._settle(passage)

    def _needed(self, passage: Passage, error: UpstreamNeedsConnectionError) -> Answer:
        exchange = passage.exchange
        try:
            asked = self._connect.asked(exchange, error)
        except (MCPError, AgentAPIError) as told:
            return passage.failure(told)
        return Answer(result_message(exchange.envelope.id_json or b"null", asked))

    async def _pass(self, passage: Passage, scope: Scope, stream: ClientStream) -> Answer:
        exchange, target = passage.exchange, passage.target
        state = None
        if not exchange.envelope.has_plain_params or exchange.envelope.request_state is not None:
            state = exchange.params.get("requestState")
        if state is not None:
            state = self._states.open(Binding.of(exchange, target), state)
        send, caller = partial(self._sent, passage, scope, state), caller_of(exchange)
        if not target.repeatable:
            return await with_credential(self._credentials, target.upstream, caller, send)

        async def attempt(_: float) -> Answer:
            return await with_credential(self._credentials, target.upstream, caller, send)

        within_s = self._limits.call_timeout_s
        return await self._retries.run(target.upstream, attempt, within_s=within_s, unless=lambda: stream.heard)

    async def _sent(self, passage: Passage, scope: Scope, state: str | None, credential: Credential) -> Answer:
        exchange, target = passage.exchange, passage.target
        upstream, own = target.upstream, credential.user_id is not None
        user_id = exchange.principal.user_id
        wire = self._wires.of(upstream, credential)
        pieces = request_pieces(wire, exchange.incoming, target, request_state=state, headers=scope["headers"])
        # What refused another credential has no more to say.
        self._let_go(passage)
        passage.pooled = await self._taken(wire, upstream, user_id)
        with self._breakers.guard(upstream, user_id, Operation.CALL_TOOL) as guard:
            try:
                return await passage.answer(pieces, own=own)
            except ConnectionEndedError as error:
                # The server may have closed a connection that lay idle just when the request was on its way.
                if not (error.untouched and passage.pooled.reused):
                    raise
                guard.record("neutral")
                if not target.repeatable:
                    raise
        self._let_go(passage)
        passage.pooled = await self._taken(wire, upstream, user_id, fresh=True)
        with self._breakers.guard(upstream, user_id, Operation.CALL_TOOL):
            return await passage.answer(pieces, own=own)

    def _let_go(self, passage: Passage) -> None:
        pooled, passage.pooled = passage.pooled, None
        if pooled is not None:
            self._pool.discard(pooled)

    async def _taken(self, wire: Wire, upstream: Upstream, user_id: UserId, *, fresh: bool = False) -> Pooled:
        connecting = partial(self._breakers.guard, upstream, user_id, Operation.CONNECT)
        try:
            return await self._pool.take(wire.key, wire.destination, fresh=fresh, connecting=connecting)
        except UpstreamUnaskedError:
            raise
        except AgentAPIError as error:
            kind = type(error) if isinstance(error, UpstreamTimeoutError) else UpstreamError
            message = f"Upstream '{upstream.name}' is unavailable: {reason_of(error)}."
            raise kind(message, **error.log_context) from error

    async def _settle(self, passage: Passage) -> None:
        """Give the connection back if it ends as it should, which the client no longer waits for."""
        passage.stop_watching()
        if passage.outdated:
            self._forget_era(passage.target.upstream)
        pooled, passage.pooled = passage.pooled, None
        if pooled is None:
            return
        try:
            await passage.drain(pooled.connection)
        finally:
            self._pool.give_back(pooled)


async def _recorded(record: Record, passage: Passage, answer: Answer) -> Answer:
    """Return ``answer`` once it is recorded, or the error that it cannot be."""
    try:
        await record.answered(answer.body)
    except AuditUnavailableError as error:
        return passage.failure(error)
    return answer
