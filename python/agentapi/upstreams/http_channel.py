"""Between the SDK's HTTP transports and the process's own client: one broken request must not end the connection.

The SDK lets an error of a single POST end the whole connection, and with it the requests of other callers. Here it is
noted on the call it belongs to and the SDK is told that the server is not available. It also decides how long a
server may be silent: long where an answer is awaited, since the link bounds that itself, and not long where there is
nothing to wait for, since the SDK sends nothing else meanwhile.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self

import httpx2

from agentapi._core import EnvelopeError, scan_envelope
from agentapi.egress.transport import BoundedStream
from agentapi.upstreams.calls import current_call
from agentapi.upstreams.failures import WrongAnswerError, refusal_of
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
_MAX_DEPTH: Final = 255


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
            response = await self._inner.handle_async_request(request)
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
    """Return the body, checked to answer the request where it is to be the answer."""
    body, kind = _body(response, call), response.headers.get("content-type", "").lower()
    # An error with a status of its own need not name the request: the server may not have read as far as that.
    if response.is_success and kind.startswith(("application/json", "text/event-stream")):
        return _CheckedStream(body, call, whole=kind.startswith("application/json"))
    return body


class _CheckedStream(httpx2.AsyncByteStream):
    """Passes an answer on as far as it is one to the request of ``call``.

    The SDK takes whatever response comes on the stream of a POST for its answer, under any id, and waits on where one
    of JSON has another id.
    """

    def __init__(self, inner: httpx2.AsyncByteStream, call: Call, *, whole: bool) -> None:
        self._inner = inner
        self._call = call
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._whole:
            body = b"".join([chunk async for chunk in self._inner])
            self._check(body)
            yield body
            return
        # The SDK bounds the size of an event, of which it is given what there is.
        events = Events(sys.maxsize)
        async for chunk in self._inner:
            for data in events.feed(chunk):
                self._check(data)
            yield chunk

    def _check(self, data: bytes) -> None:
        try:
            message = scan_envelope(data, max_bytes=len(data), max_depth=_MAX_DEPTH)
        except EnvelopeError as error:
            raise self._wrong(f"it is no message: {error.reason}") from None
        if message.kind != "response":
            return
        # Some servers write a number as a string; an event without an id is an error about the only request there is.
        good = {self._call.request_id, str(self._call.request_id)}
        if message.id not in good and (self._whole or message.id is not None):
            raise self._wrong("it answers another request")

    def _wrong(self, why: str) -> WrongAnswerError:
        error = WrongAnswerError(why)
        self._call.fail(error)
        return error

    async def aclose(self) -> None:
        await self._inner.aclose()


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
