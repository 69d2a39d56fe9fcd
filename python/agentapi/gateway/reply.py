"""The HTTP response to one message: JSON where nothing precedes the answer, an event stream as soon as something does.

One task works on the answer, one waits for the client to leave, and the request's own writes what there is. Between
them stands a buffer bounded in bytes: whoever notifies a client that reads slowly waits, and so does its upstream.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog

from agentapi.errors import ForbiddenError, UpstreamError
from agentapi.gateway.rpc import notification_message

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.types import Receive, Send

__all__ = ["Answer", "Expiry", "Outbox", "Reply", "StreamLimits", "TokenEndedError"]

_log = structlog.get_logger(__name__)

_PING: Final = b": ping\n\n"
_JSON: Final = (b"content-type", b"application/json")
_SSE: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx and its like hold events back otherwise.
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How event streams are kept alive and kept small."""

    ping_s: float = 15.0
    """Silence after which a comment is written, so that nobody between takes the connection for dead."""
    write_timeout_s: float = 30.0
    """Time after which a client that reads nothing is given up."""
    buffer_bytes: int = 256 * 1024
    """Most that waits to be written; one event more than that waits alone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request comes to: a JSON-RPC response, with the status and headers it has if nothing precedes it."""

    body: bytes
    status: int = HTTPStatus.OK
    headers: tuple[tuple[bytes, bytes], ...] = ()


class TokenEndedError(ForbiddenError):
    """The access token ended while the answer was still under way on a stream."""

    code = "token_ended"

    def __init__(self) -> None:
        super().__init__("The access token ended before the answer was complete.")


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a stream ends, whatever is still to come."""

    expires_at: float
    """Unix seconds."""
    failed: Callable[[Exception], Answer]
    """Makes the answer of what the request then comes to."""


class Outbox:
    """Events that wait to be written, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: deque[bytes] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self.closed = False

    async def put(self, event: bytes) -> bool:
        """Add ``event`` once there is room; return whether it was, which it is not once the box is closed."""
        while not self.offer(event):
            if self.closed:
                return False
            self._drained.clear()
            await self._drained.wait()
        return True

    def offer(self, event: bytes) -> bool:
        """Add ``event`` if there is room now; return whether it was."""
        if self.closed or (self._size and self._size + len(event) > self._max_bytes):
            return False
        self._events.append(event)
        self._size += len(event)
        self._filled.set()
        return True

    async def take(self, timeout_s: float) -> bytes | None:
        """Return all that waits: nothing when ``timeout_s`` has passed, None when the box is closed and empty."""
        if not self._events and not self.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
            except TimeoutError:
                return b""
        if not self._events:
            return None
        taken = b"".join(self._events)
        self._events.clear()
        self._size = 0
        if not self.closed:
            self._filled.clear()
        self._drained.set()
        return taken

    def close(self) -> None:
        """Take nothing in any more; what is there can still be taken."""
        self.closed = True
        self._filled.set()
        self._drained.set()


class Reply:
    """Writes the response of one request.

    Args:
        receive: Tells when the client leaves; the body has been read from it.
        send: Where the response goes.
        limits: Of its stream.
        at_once: Begin the stream before there is anything to write.
    """

    def __init__(self, receive: Receive, send: Send, limits: StreamLimits, *, at_once: bool = False) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._streaming = at_once
        self._expires_at = math.inf
        self._gone = False

    @cached_property
    def _outbox(self) -> Outbox:
        """Made when it is needed, which it is not for what the relay answers."""
        return Outbox(self._limits.buffer_bytes)

    async def event(self, message: bytes) -> bool:
        """Write ``message`` before the answer, waiting for room; return whether it still could be."""
        return await self._outbox.put(_event(message))

    async def notify(self, method: str, params: Mapping[str, Any]) -> bool:
        """Write a notification before the answer, waiting for room; return whether it still could be."""
        try:
            message = notification_message(method, params)
        except UpstreamError as error:
            _log.info("notification_lost", method=method[:64], reason=error.message)
            return True
        return await self.event(message)

    def offer(self, message: bytes) -> bool:
        """Write ``message`` before the answer if there is room now; return whether there was."""
        return self._outbox.offer(_event(message))

    async def run(
        self,
        work: Coroutine[None, None, Answer | None],
        *,
        cancelled: Answer | None = None,
        expiry: Expiry | None = None,
    ) -> None:
        """Do ``work`` and write what it comes to, with the events before it.

        The client's departure cancels the work. When somebody else does, ``cancelled`` is the answer; without one,
        the stream just ends. ``expiry`` ends a stream, and whatever would become one; an answer that needs none may
        still come after it.
        """
        if expiry is not None:
            self._expires_at = expiry.expires_at
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._outbox.close())
        watcher = asyncio.ensure_future(self._watch(task))
        try:
            if await self._pump():
                await self._finish(cancelled if task.cancelled() else task.result())
        except TokenEndedError as error:
            task.cancel()
            await self._finish(expiry.failed(error) if expiry is not None else None)
        finally:
            watcher.cancel()
            task.cancel()
            # A failure of the work has been raised above, or nobody is there to be told of it.
            await asyncio.gather(task, watcher, return_exceptions=True)

    async def _watch(self, task: asyncio.Future[Answer | None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        task.cancel()

    async def _pump(self) -> bool:
        """Write events until the work is done; return whether anybody is there for what follows.

        Raises:
            TokenEndedError: There is no time left for more of them.
        """
        if self._streaming and not await self._begin():
            return False
        while (events := await self._outbox.take(self._wait_s())) is not None:
            if not self._gone and time.time() >= self._expires_at:
                raise TokenEndedError
            if self._gone or not (self._streaming or await self._begin()):
                return False
            if not await self._write(events or _PING, more=True):
                return False
        return not self._gone

    def _wait_s(self) -> float:
        ping_s = self._limits.ping_s
        return max(0.0, min(ping_s, self._expires_at - time.time())) if self._streaming else ping_s

    async def _finish(self, answer: Answer | None) -> None:
        if self._streaming:
            await self._write(_event(answer.body) if answer is not None else b"", more=False)
        elif answer is not None:
            length = (b"content-length", str(len(answer.body)).encode())
            headers = [_JSON, length, *answer.headers]
            start = {"type": "http.response.start", "status": answer.status, "headers": headers}
            if await self._pass_on(start):
                await self._write(answer.body, more=False)

    async def _begin(self) -> bool:
        self._streaming = True
        return await self._pass_on({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [*_SSE]})

    async def _write(self, body: bytes, *, more: bool) -> bool:
        return await self._pass_on({"type": "http.response.body", "body": body, "more_body": more})

    async def _pass_on(self, message: dict[str, object]) -> bool:
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await self._send(message)
        except TimeoutError:
            _log.info("client_does_not_read", waited_s=self._limits.write_timeout_s)
            return False
        except OSError:
            # ASGI 2.4: a server may say so that the client has gone.
            return False
        return True


def _event(message: bytes) -> bytes:
    """Return ``message`` as a server-sent event; JSON without indentation has no line break."""
    return b"event: message\ndata: %b\n\n" % message
