"""One request on its way through the relay: what its upstream answers, and what of that the client is told.

Invariants:

* Of the upstream's headers nothing passes. Its answer is read as one JSON-RPC message, or a stream of them, of which
  one answers this very request; anything else is an error in the gateway's own words.
* An address or a state of an upstream reaches the client only rewritten. An answer that may hold one is read and
  written anew; all others pass as they are.
* Of what precedes the answer only what belongs to this request passes, and nothing else keeps it alive.
* What a client does not read, the gateway does not read either. A client that leaves ends the upstream's request.
* However lively it is, a stream ends: its time and its bytes are bounded in all.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
from mcp import MCPError
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.methods import CACHEABLE_METHODS

from agentapi._core import EnvelopeError, scan_envelope
from agentapi.egress.http1 import ConnectionEndedError, GarbledAnswerError
from agentapi.errors import AgentAPIError, UpstreamError, UpstreamTimeoutError
from agentapi.gateway.reply import Answer
from agentapi.gateway.rpc import error_message, error_object, error_status, result_message
from agentapi.gateway.upstream_errors import told_error
from agentapi.request_body import ClientGoneError
from agentapi.upstreams.failures import CredentialRefusedError, failed_with, refusal_of
from agentapi.upstreams.link import MAX_ANSWER_DEPTH, Era
from agentapi.upstreams.negotiation import speaks_modern
from agentapi.upstreams.notices import Asked
from agentapi.upstreams.reasons import reason_of
from agentapi.upstreams.retries import retry_after_of
from agentapi.upstreams.sse import Events, EventTooLargeError

if TYPE_CHECKING:
    from starlette.types import Receive

    from agentapi._core import Envelope
    from agentapi.egress.http1 import AnswerHead, Http1Connection
    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.items import Target
    from agentapi.gateway.relay_answer import ClientStream
    from agentapi.upstreams.http_pool import Pooled

__all__ = ["Finish", "Passage", "RelayLimits"]

_log = structlog.get_logger(__name__)

_SOON_S: Final = 0.05
"""Most answers are there by then; only a request that takes longer pays for watching its client."""
_DRAIN_S: Final = 1.0
"""How long the end of a stream may take after its last event, for the connection to be used again."""
_MARKS: Final = (b'"uri"', b'"requestState"', b"\\u00")
"""What makes an answer worth reading: it may hold something that is to be rewritten, or hide it behind an escape."""
_WHOLE: Final = "complete"
_NONSENSE: Final = "Upstream '{}' answered with a result that the protocol does not allow."

Finish = Callable[["Exchange", "Target", dict[str, Any]], dict[str, Any]]
"""Makes of an upstream's result what the client is to see."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bounds on one passage."""

    call_timeout_s: float
    """On a whole answer of JSON; of a stream, on each event for the client: all else is silence."""
    max_answer_bytes: int
    """On an answer of JSON, and on one event."""
    stream_timeout_s: float
    """On a whole stream."""
    max_stream_bytes: int
    """Likewise."""


class Passage:
    """One request under way.

    Args:
        exchange: The client's request.
        target: What it is about.
        stream: Where the response goes.
        receive: Tells when the client leaves.
        limits: On time and size.
        finish: Rewrites results.
    """

    def __init__(
        self,
        exchange: Exchange,
        target: Target,
        *,
        stream: ClientStream,
        receive: Receive,
        limits: RelayLimits,
        finish: Finish,
    ) -> None:
        self.exchange = exchange
        self.target = target
        self.pooled: Pooled | None = None
        self._stream = stream
        self._receive = receive
        self._limits = limits
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False
        # What may be kept for a while is always marked as for this user alone.
        self._as_it_is = exchange.method not in CACHEABLE_METHODS
        self._answered = False
        self._end = self._deadline = math.inf
        self._asked: Asked | None = None
        self._dropped = 0
        self.outdated = False
        """Whether the upstream answered as one that does not speak the modern revision any more."""

    @property
    def _id_json(self) -> bytes:
        return self.exchange.envelope.id_json or b"null"

    @property
    def _connection(self) -> Http1Connection:
        if self.pooled is None:
            raise AssertionError
        return self.pooled.connection

    def failure(self, error: MCPError | AgentAPIError) -> Answer:
        """Return ``error`` as the answer."""
        told = error_object(self._told(error))
        return Answer(error_message(self._id_json, told), error_status(told))

    def _told(self, error: MCPError | AgentAPIError) -> MCPError | AgentAPIError:
        name = self.target.upstream.name
        if isinstance(error, ConnectionEndedError):
            return UpstreamError(f"Upstream '{name}' closed the connection.")
        if isinstance(error, GarbledAnswerError | EventTooLargeError):
            return UpstreamError(f"Upstream '{name}' failed: {reason_of(error)}.")
        return error

    async def answer(self, pieces: list[bytes], *, own: bool = False) -> Answer:
        """Send the request and return what it comes to, having written what precedes that.

        Args:
            pieces: The request.
            own: Whether it carries a credential of the user's own.

        Raises:
            CredentialRefusedError: The upstream does not accept that credential.
            ClientGoneError: Nobody waits for it any more.
        """
        if self._gone:
            raise ClientGoneError
        connection = self._connection
        connection.send(pieces)
        deadline = self._deadline = min(self._deadline, self._loop.time() + self._limits.call_timeout_s)
        while connection.head is None:
            await self._more(deadline)
        head = connection.head
        kind = head.get(b"content-type").partition(b";")[0].strip().lower()
        if head.get(b"content-encoding").strip().lower() not in {b"", b"identity"}:
            raise GarbledAnswerError("its answer is compressed, which was not asked for")
        # What kind of success it is says nothing (RFC 9110, section 15), but that 202 promises an answer elsewhere.
        if not 200 <= head.status < 300 or head.status == HTTPStatus.ACCEPTED:  # noqa: PLR2004 - as above
            if own:
                self._check_credential(head)
            may_say_more = head.status >= HTTPStatus.BAD_REQUEST and kind == b"application/json"
            body = await self._body(deadline) if may_say_more else b""
            return self._refusal(head, body)
        if kind == b"application/json":
            body = await self._body(deadline)
            return self._message(body, self._scanned(body))
        if kind == b"text/event-stream":
            return await self._events()
        raise self._nonsense()

    def _check_credential(self, head: AnswerHead) -> None:
        said = [value.decode("latin-1") for name, value in head.headers if name == b"www-authenticate"]
        refusal = refusal_of(head.status, said)
        if refusal is not None:
            raise CredentialRefusedError(self._failed(head.status), refusal)

    def _failed(self, status: int) -> str:
        return f"Upstream '{self.target.upstream.name}' failed: {reason_of(UpstreamError(''), status)}."

    def stop_watching(self) -> None:
        """Let go of the client: it has its answer, or left."""
        # What a task raised holds its frames, and they the passage; a passage that held the task would be a ring.
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        if self._dropped:
            _log.info("notifications_dropped", upstream=self.target.upstream.name, count=self._dropped)

    async def drain(self, connection: Http1Connection) -> None:
        """Read the end of a stream whose last event is here."""
        if not self._answered:
            return
        deadline = self._loop.time() + _DRAIN_S
        try:
            while not connection.complete and await connection.wait(deadline):
                while connection.take():
                    pass
        except UpstreamError:
            return

    async def _more(self, deadline: float) -> None:
        """Wait for more of the answer. Meanwhile the client is watched, and told now and then that there is life."""
        if self._watcher is None:
            if await self._came(min(deadline, self._loop.time() + _SOON_S)):
                return
            self._watcher = asyncio.create_task(self._watch())
        while not self._gone:
            # What comes without being for the client is no sign of life to it.
            if self._loop.time() >= self._stream.ping_due:
                await self._stream.ping()
            until = min(deadline, self._stream.ping_due)
            if await self._came(until):
                return
            if until >= deadline:
                raise self._late()
        raise ClientGoneError

    def _late(self) -> UpstreamTimeoutError:
        name, limits = self.target.upstream.name, self._limits
        if self._loop.time() >= self._end:
            message = f"Upstream '{name}' did not complete its answer within {limits.stream_timeout_s:g} s."
            return UpstreamTimeoutError(message)
        return UpstreamTimeoutError(f"Upstream '{name}' did not answer within {limits.call_timeout_s:g} s.")

    async def _came(self, until: float) -> bool:
        try:
            return await self._connection.wait(until)
        except ConnectionEndedError:
            if self._gone:
                raise ClientGoneError from None
            raise

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # Once the answer is written, the server says the same of a client that stays.
        if not self._answered:
            self._gone = True
            # Between two tries there is no connection, and then there is no second one.
            if self.pooled is not None:
                self.pooled.connection.abort()

    async def _body(self, deadline: float) -> bytes:
        connection, limit = self._connection, self._limits.max_answer_bytes
        announced = connection.head.get(b"content-length") if connection.head is not None else b""
        too_large = announced.isdigit() and int(announced[:20]) > limit
        pieces: list[bytes] = []
        size = 0
        while not too_large:
            if piece := connection.take():
                pieces.append(piece)
                size += len(piece)
                too_large = size > limit
            elif connection.complete:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            else:
                await self._more(deadline)
        raise GarbledAnswerError(f"its answer is larger than {limit} bytes")

    async def _events(self) -> Answer:
        """Pass events on until one of them is the answer."""
        connection, events = self._connection, Events(self._limits.max_answer_bytes)
        # A stream that is never silent for as long as an answer may take would hide that its client has left.
        self._watcher = self._watcher or asyncio.create_task(self._watch())
        now = self._loop.time()
        self._end, deadline = now + self._limits.stream_timeout_s, now + self._limits.call_timeout_s
        size = 0
        while True:
            if piece := connection.take():
                size += len(piece)
                if size > self._limits.max_stream_bytes:
                    limit = self._limits.max_stream_bytes
                    raise GarbledAnswerError(f"it sent more than {limit} bytes before its answer was complete")
                for data in events.feed(piece):
                    message = self._scanned(data)
                    if message.kind == "response":
                        return self._message(data, message)
                    if await self._notified(data, message):
                        deadline = self._loop.time() + self._limits.call_timeout_s
                # Whatever comes besides events for the client may come without a pause.
                if self._loop.time() >= self._stream.ping_due:
                    await self._stream.ping()
                if self._loop.time() >= min(deadline, self._end):
                    raise self._late()
            elif connection.complete:
                raise ConnectionEndedError
            else:
                await self._more(min(deadline, self._end))

    async def _notified(self, data: bytes, message: Envelope) -> bool:
        """Pass a notification on if it belongs to the request; return whether it does.

        A server of this era asks by its result, so that a question on the stream is for nobody to answer; and of
        changes it tells on another stream, whose client may be told of them.
        """
        asked = self._asked = self._asked or Asked.of(self.exchange.params.get("_meta"))
        method = message.method or ""
        # What nobody asked for is not even read.
        if (
            message.kind == "notification"
            and asked.hears_of(method)
            and asked.hears(method, self._loaded(data).get("params"))
        ):
            await self._stream.event(data)
            return True
        self._dropped += 1
        return False

    def _scanned(self, data: bytes) -> Envelope:
        try:
            return scan_envelope(data, max_bytes=self._limits.max_answer_bytes, max_depth=MAX_ANSWER_DEPTH)
        except EnvelopeError:
            raise self._nonsense() from None

    def _loaded(self, data: bytes) -> dict[str, Any]:
        """Return the message in ``data``, which has been scanned."""
        try:
            message: dict[str, Any] = json.loads(data)
        except ValueError:
            # Python reads no integer of more than some thousand digits; the scan has no objection to one.
            raise self._nonsense() from None
        return message

    def _refusal(self, head: AnswerHead, body: bytes) -> Answer:
        """Return what an HTTP error says: the upstream's own error where it is one of the protocol."""
        error: object = None
        status = head.status
        try:
            message = self._loaded(body) if body and self._scanned(body).kind == "response" else {}
            error = message.get("error")
            return self._error(error)
        except UpstreamError:
            if status < HTTPStatus.MULTIPLE_CHOICES:
                raise self._nonsense() from None
            asked_s = retry_after_of(head.get(b"retry-after").decode("latin-1") or None)
            raise failed_with(status, self._failed(status), asked_s) from None
        finally:
            self.outdated = self.outdated or not speaks_modern(status, error)

    def _message(self, data: bytes, message: Envelope) -> Answer:
        """Return the response in ``data``, as it is where nothing in it can need rewriting."""
        own, is_response = self.exchange.envelope.id, message.kind == "response"
        is_plain = is_response and message.id == own and message.result_type == _WHOLE
        if is_plain and self._as_it_is and not any(mark in data for mark in _MARKS):
            self._answered = True
            return Answer(data)
        # Some servers write a number as a string; the client is to see its own.
        answers = is_response and message.id in {own, str(own)}
        read = self._loaded(data)
        error, result = read.get("error"), read.get("result")
        # A server that could not read the request's id answers without one, and can only mean this request.
        if is_response and error is not None and (answers or message.id is None):
            return self._error(error)
        if not answers or not isinstance(result, dict):
            raise self._nonsense()
        finished = self._finish(self.exchange, self.target, result)
        self._answered = True
        return Answer(result_message(self._id_json, finished))

    def _error(self, error: object) -> Answer:
        """Return an error of the upstream, as far as it may be told."""
        if not isinstance(error, dict):
            raise self._nonsense()
        code, message = error.get("code"), error.get("message")
        if type(code) is not int or not isinstance(message, str):
            raise self._nonsense()
        self._answered = True
        self.outdated = code == UNSUPPORTED_PROTOCOL_VERSION
        told = error_object(
            told_error(
                MCPError(code, message, error.get("data")),
                upstream=self.target.upstream.name,
                era=Era.MODERN,
                declared=self.exchange.client.capabilities,
            )
        )
        return Answer(error_message(self._id_json, told), error_status(told))

    def _nonsense(self) -> UpstreamError:
        return UpstreamError(_NONSENSE.format(self.target.upstream.name))
