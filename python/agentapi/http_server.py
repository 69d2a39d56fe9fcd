"""How uvicorn serves the gateway: a response's head leaves with what follows it, and clients have to read.

uvicorn writes head and body apart, and uvloop hands each to the kernel at once. Of a small answer that is a second
system call, a second packet, and a client that is woken twice.

It also waits for ever for a client to take what was written. The application cannot help that: its last write returns
at once, and all it leaves behind is a connection and what the connection still holds.

And it reads a head of any size, for as long as the client likes, before anybody has asked who that is.
"""

from __future__ import annotations

import asyncio
import gc
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = [
    "CLIENT_LIMITS_STATE",
    "ClientLimits",
    "HttpProtocol",
    "JoinedWrites",
    "Patience",
    "spare_long_lived_objects",
]

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from agentapi.settings import Settings

_log = structlog.get_logger(__name__)

CLIENT_LIMITS_STATE: Final = "client_limits"
"""Under this name the application's lifespan state holds its ``ClientLimits``."""

_HEAD: Final = b"HTTP/1."

_MAX_FIELDS: Final = 100
"""In one head; clients and the proxies before them send some twenty."""

_YOUNG_OBJECTS: Final = 10_000
"""Objects made and not let go after which the collector looks at them; by default it does so at every other request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What one connection may take before anybody knows whose it is."""

    write_timeout_s: float = 30.0
    """How long a client may read nothing."""
    max_head_bytes: int = 65_536
    """Of a request: its first line and its fields, or what stands between two pieces of its body."""
    head_timeout_s: float = 30.0
    """From the connection's begin, or the end of the last answer, until the next head is there."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return what the settings allow."""
        return cls(
            write_timeout_s=settings.client_write_timeout_s,
            max_head_bytes=settings.max_head_bytes,
            head_timeout_s=settings.head_timeout_s,
        )


class HeadTooLargeError(Exception):
    """A request's head is larger than it may be."""


class JoinedWrites:
    """A transport that holds a head until the next write, or the end of what the event loop does now.

    Everything else is the transport's own.

    Args:
        transport: Where it goes.
        soon: Calls a function once the event loop is done with what it does now.
        closing: Called when the transport is about to close.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        soon: Callable[[Callable[[], None]], object],
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._closing = closing
        self._write = transport.write
        self._soon = soon
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write ``data``, a head of a response a moment later."""
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_HEAD):
            self._held = data
            self._soon(self._flush)
            return
        self._write(data)

    def close(self) -> None:
        """Close the transport once all is written."""
        self._flush()
        self._closing()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)


class Patience:
    """Gives up a client that takes nothing of what waits for it.

    Args:
        transport: Where it waits.
        within_s: How long the client may take nothing; one that takes a little at a time is slow, and served.
    """

    def __init__(self, transport: asyncio.Transport, within_s: float) -> None:
        self._transport = transport
        self._within_s = within_s
        self._waits = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watch until nothing waits any more, or ``end``. Nothing may be written meanwhile."""
        self.end()
        self._waits = self._transport.get_write_buffer_size()
        if self._waits:
            self._timer = asyncio.get_running_loop().call_later(self._within_s, self._look)

    def end(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._waits:
            self.begin()
            return
        self._timer = None
        _log.info("client_does_not_read", waited_s=self._within_s, waiting_bytes=self._waits)
        self._transport.abort()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on llhttp, with joined writes, and for clients that read, and come to the point."""

    _limits: ClientLimits
    _patience: Patience
    # Bytes since the parser last came to the end of a head, a piece of a body, or a message.
    _unread = 0
    # When nothing was under way any more; infinite while something is.
    _idle_since = math.inf
    # Whether that was the end of an answer, and nothing has come after it.
    _rests = False
    # One for the whole connection: a timer for each request would cost more than all the rest here.
    _timer: asyncio.TimerHandle | None = None
    _looks_at = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve a connection."""
        self._limits = self.app_state.get(CLIENT_LIMITS_STATE) or ClientLimits()
        self._patience = Patience(transport, self._limits.write_timeout_s)
        joined = JoinedWrites(transport, self.loop.call_soon, self._patience.begin)
        # It has the methods of a transport without inheriting them, as uvloop's own do.
        super().connection_made(cast("asyncio.Transport", joined))
        self.url, self.headers = b"", []
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        self._patience.end()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the parser keeps what belongs to a field until it is whole, and says nothing of it before."""
        self._unread += len(data)
        self._rests = False
        super().data_received(data)
        if self._too_large():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Begin with the request.

        Raises:
            HeadTooLargeError: It came in one piece, and is too large.
        """
        size = self._unread
        # The piece may hold more than this head, or have begun with the end of what came before.
        if not 0 < size <= self._limits.max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self._unread = size
        if self._too_large():
            raise HeadTooLargeError
        self._unread = 0
        self._idle_since = math.inf
        super().on_headers_complete()
        # What comes behind a body in chunks is no header of the request, which has been judged by then.
        self.url, self.headers = b"", []

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the response, as uvicorn does but for the timer that it would make and cancel for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        # Requests that came meanwhile have to be answered first.
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rests = True
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not read to its end."""
        if self._too_large():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def pause_writing(self) -> None:
        """Wait for the client, which has to read something now and then; uvicorn writes nothing meanwhile."""
        super().pause_writing()
        self._patience.begin()

    def resume_writing(self) -> None:
        """Go on."""
        self._patience.end()
        super().resume_writing()

    def _too_large(self) -> bool:
        return self._unread > self._limits.max_head_bytes or len(self.headers) > _MAX_FIELDS

    def _await_head(self) -> None:
        self._idle_since = self.loop.time()
        self._look_at(self._due())

    def _due(self) -> float:
        """Return when the client has had its time."""
        within_s = self._limits.head_timeout_s
        if self._rests:
            within_s = min(within_s, self.timeout_keep_alive)
        return self._idle_since + within_s

    def _look_at(self, due: float) -> None:
        """Look whether a client has had its time when it is ``due``, or before that."""
        if due < self._looks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._looks_at = due
            self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer, self._looks_at = None, math.inf
        due = self._due()
        if self.loop.time() < due:
            self._look_at(due)
        elif self._unread or self.url:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            # Who has sent nothing has asked for nothing.
            self.transport.close()

    def _refuse(self, status: HTTPStatus, reason: str = "") -> None:
        """Close the connection with an error, which is told where it is not in the middle of an answer."""
        if self.transport.is_closing():
            return
        # None before the first request, whatever its annotation says.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            text = (reason or f"{status.phrase}.").encode()
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            more = f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + more.encode() + text)
        self.transport.close()


def spare_long_lived_objects() -> None:
    """Have the garbage collector pass over what is there now, which lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
