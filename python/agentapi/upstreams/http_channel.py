"""Between the SDK's HTTP transports and the process's own client: one broken request must not end the connection.

The SDK lets an error of a single POST end the whole connection, and with it the requests of other callers. Here it is
noted on the call it belongs to and the SDK is told that the server is not available. It also decides how long a
server may be silent: long where an answer is awaited, since the link bounds that itself, and not long where there is
nothing to wait for, since the SDK sends nothing else meanwhile.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

import httpx2
from mcp import MCPError

from agentapi._core import EnvelopeError, scan_envelope
from agentapi.egress.transport import BoundedStream
from agentapi.errors import UpstreamUnaskedError
from agentapi.upstreams.calls import current_call
from agentapi.upstreams.failures import WrongAnswerError, refusal_of
from agentapi.upstreams.link import MAX_ANSWER_DEPTH
from agentapi.upstreams.retries import retry_after_of
from agentapi.upstreams.sse import Events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from agentapi.upstreams.calls import Call
    from agentapi.upstreams.challenges import Challenge

__all__ = ["WatchedTransport"]

_STREAM_SILENCE_S: Final = 3600.0
"""After that a stream of events is taken for dead."""
_SHORT_SILENCE_S: Final = 10.0


class WatchedTransport(httpx2.AsyncBaseTransport):
    """Passes requests on and notes on the current call what became of them.

    Args:
        inner: What sends them.
        answers_elsewhere: Whether the answer to a POST comes on another stream, as with SSE: then a POST that fails
            must end the wait for it.
        own: Whether the credential is a user's own, so that its refusal is told from other failures.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, answers_elsewhere: bool, own: bool = False) -> None:
        self.last_status: int | None = None
        self.refusal: Challenge | None = None
        self._own = own
        self._inner = inner
        self._answers_elsewhere = answers_elsewhere

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send ``request``; a POST that cannot be sent is answered with 503."""
        call = current_call.get()
        # What follows in the same context is a cancellation, or the answer to a question of the server.
        awaited = call is not None and not call.sent
        if call is not None:
            call.sent = True
        long = awaited or request.method == "GET"
        timeout = {**request.extensions.get("timeout", {}), "read": _STREAM_SILENCE_S if long else _SHORT_SILENCE_S}
        request.extensions = {**request.extensions, "timeout": timeout}
        try:
            response = await self._sent(request)
        except Exception as error:
            if request.method != "POST":
                raise
            if awaited and call is not None:
                if self._answers_elsewhere:
                    call.fail(error)
                else:
                    call.failure = error
            return httpx2.Response(HTTPStatus.SERVICE_UNAVAILABLE, request=request)
        self._note(response)
        # A stream that broke off is taken up again in the context of its request.
        resumed = call is not None and request.method == "GET" and not self._answers_elsewhere
        if call is None or not (awaited or resumed):
            return response
        call.status = response.status_code
        call.refusal = self.refusal
        call.retry_after_s = retry_after_of(response.headers.get("retry-after"))
        if self._answers_elsewhere:
            if not response.is_success:
                call.fail(httpx2.HTTPStatusError("", request=request, response=response))
            return response
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_WatchedStream(_answer(response, call)),
            extensions=response.extensions,
        )

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._inner.handle_async_request(request)
        except httpx2.PoolTimeout as error:
            raise UpstreamUnaskedError("All sockets for calls to upstreams are in use; try again shortly.") from error

    def _note(self, response: httpx2.Response) -> None:
        self.last_status = response.status_code
        if self._own:
            self.refusal = refusal_of(response.status_code, response.headers.get_list("www-authenticate"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        return None

    async def aclose(self) -> None:
        """Do nothing; what is below belongs to the process."""


def _body(response: httpx2.Response, call: Call) -> httpx2.AsyncByteStream:
    """Return the body, bounded where the call is."""
    stream = response.stream
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise TypeError("the client answered with a stream that is not asynchronous")
    return stream if call.max_answer_bytes is None else BoundedStream(stream, call.max_answer_bytes)


def _answer(response: httpx2.Response, call: Call) -> httpx2.AsyncByteStream:
    """Return the body, checked to answer the request where it is to be the answer, and empty where it cannot be one."""
    body, kind = _body(response, call), response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_refusal = response.status_code >= HTTPStatus.BAD_REQUEST
    if kind == "application/json" and (response.is_success or is_refusal):
        return _JsonAnswer(body, call, is_refusal=is_refusal)
    if kind == "text/event-stream" and response.is_success:
        return _CheckedEvents(body, call)
    # The SDK would read it after a redirect that leads nowhere, and as JSON where the type only begins so.
    return _NoAnswer(body)


@dataclass(frozen=True, slots=True)
class _Response:
    """A response among the messages of an answer."""

    id: str | int | None
    error: dict[str, Any] | None
    """Of the upstream, if it is one."""


def _read(data: bytes, call: Call) -> _Response | None:
    """Return what a message is if it is a response, and note on ``call`` that the upstream answered with an error.

    Raises:
        WrongAnswerError: It is no message or could be read in two ways, answers another request, or reports an error
            that is none of the protocol.
    """
    try:
        message = scan_envelope(data, max_bytes=len(data), max_depth=MAX_ANSWER_DEPTH)
    except EnvelopeError as scanned:
        raise WrongAnswerError(f"it is no message: {scanned.reason}") from None
    if message.kind != "response":
        return None
    # The name of a member may be hidden behind escapes.
    error = _error(data) if b"error" in data or b"\\u" in data else None
    if message.id is None and error is None:
        raise WrongAnswerError("it answers no request")
    call.answered = error is not None
    return _Response(message.id, error)


def _error(data: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(data)
    except ValueError:
        # Python reads no integer of more than some thousand digits; the scan has no objection to one.
        raise WrongAnswerError("it holds a number that is too long") from None
    if "error" not in message:
        return None
    error = message["error"]
    # The SDK takes 1.0 and "1" for a number.
    if not isinstance(error, dict) or type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise WrongAnswerError("its error is none of the protocol")
    return error


class _NoAnswer(httpx2.AsyncByteStream):
    """The body of an answer that is none: nobody reads it."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""

    async def aclose(self) -> None:
        await self._inner.aclose()


class _JsonAnswer(_NoAnswer):
    """Passes a body of JSON on if it is the answer to the request of ``call``, whose id it then has.

    The SDK waits on where a body is no response, and where its id is another or is left out, as that of an error
    may be (specification 2025-11-25, ``JSONRPCErrorResponse``).
    """

    def __init__(self, inner: httpx2.AsyncByteStream, call: Call, *, is_refusal: bool) -> None:
        super().__init__(inner)
        self._call = call
        self._is_refusal = is_refusal

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = b"".join([chunk async for chunk in self._inner])
        try:
            yield self._checked(body)
        except WrongAnswerError as error:
            # Of a refusal the status is left.
            if not self._is_refusal:
                self._call.fail(error)
                raise

    def _checked(self, body: bytes) -> bytes:
        response, own = _read(body, self._call), self._call.request_id
        if response is None:
            raise WrongAnswerError("it is no response")
        if response.error is not None and (response.id is None or self._is_refusal):
            # There is one request only that it can be about.
            return json.dumps({"jsonrpc": "2.0", "id": own, "error": response.error}).encode()
        # Some servers write a number as a string.
        if response.id not in {own, str(own)}:
            raise WrongAnswerError("it answers another request")
        return body


class _CheckedEvents(_NoAnswer):
    """Passes events on as far as a response among them is one to the request of ``call``.

    The SDK takes whatever response comes on the stream of a POST for its answer, under any id, and none without one.
    """

    def __init__(self, inner: httpx2.AsyncByteStream, call: Call) -> None:
        super().__init__(inner)
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # The SDK bounds the size of an event, of which it is given what there is.
        events, answered = Events(sys.maxsize), False
        async for chunk in self._inner:
            for data in () if answered else events.feed(chunk):
                # Nobody reads what follows the answer.
                if answered := self._check(data):
                    break
            yield chunk

    def _check(self, data: bytes) -> bool:
        """Check one message; return whether it is the answer."""
        call = self._call
        try:
            response = _read(data, call)
        except WrongAnswerError as error:
            call.fail(error)
            raise
        if response is None:
            return False
        if response.id not in {call.request_id, str(call.request_id), None}:
            failure = WrongAnswerError("it answers another request")
            call.fail(failure)
            raise failure
        if response.id is None and (told := response.error) is not None:
            # Once the SDK has passed on what precedes it, it refuses this.
            call.failure = MCPError(told["code"], told["message"], told.get("data"))
        return True


class BrokenBodyError(httpx2.StreamError):
    """A body ended before its end. Of the one kind of error that the SDK answers for the request alone."""


class _WatchedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                yield chunk
        except Exception as error:
            call = current_call.get()
            if call is not None:
                call.failure = error
            raise BrokenBodyError("the body broke off") from error

    async def aclose(self) -> None:
        await self._inner.aclose()
