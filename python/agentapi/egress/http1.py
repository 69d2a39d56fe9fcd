"""One HTTP/1.1 connection as a client: a request out, an answer in, one at a time.

The bytes of an answer are read by llhttp (through httptools), in its strict mode. What is here is the state around it.

Invariants:

* An answer belongs to the request before it: bytes that come while no request is under way, or after the end of an
  answer, close the connection, and so does whatever llhttp refuses.
* Nothing is buffered without a bound: the head of an answer, what stands between pieces of its body (chunk
  extensions, trailers), and the pieces that nobody has taken yet, for which the socket is not read from.
* A connection is used again only if its answer ended as both sides know, with nothing left to write.
* Nothing is decompressed, no redirect is followed, no cookie is kept: there is no code for it.

    IDLE --send--> HEAD --head complete--> BODY --end of message--> IDLE
    any state --close, nonsense, abort--> CLOSED

An answer that is complete stays so, whatever becomes of its connection.

Sources: RFC 9112 (sections 6.3 on length, 9.3 and 9.6 on persistence), RFC 9110, section 15.2 (1xx).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import httptools

from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AnswerHead", "ConnectionEndedError", "GarbledAnswerError", "Http1Connection", "is_field_value"]

_MAX_HEAD: Final = 64 * 1024
_MAX_INTERIM: Final = 8
_HIGH_WATER: Final = 64 * 1024
_OK: Final = int(HTTPStatus.OK)
_SWITCHING: Final = int(HTTPStatus.SWITCHING_PROTOCOLS)
_FIELD_BYTES: Final = bytes(range(0x20, 0x7F))


class ConnectionEndedError(UpstreamError):
    """The connection ended before the answer did; ``untouched`` if not a byte of the answer had come."""

    def __init__(self, message: str = "the connection broke", *, untouched: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched


class GarbledAnswerError(UpstreamError):
    """What came is not an answer in HTTP/1.1, or exceeds a bound."""


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Status and headers of an answer; names are in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes) -> bytes:
        """Return the value of the first header of that name, or nothing."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


class _State(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    CLOSED = auto()


class Http1Connection(asyncio.Protocol):
    """The client's side of one connection, to be made by ``loop.create_connection``."""

    # There may be thousands, and each would have a dictionary besides.
    __slots__ = (
        "_buffered",
        "_complete",
        "_failure",
        "_fields",
        "_head",
        "_interim",
        "_keep_alive",
        "_looks_at",
        "_loop",
        "_parser",
        "_paused",
        "_pieces",
        "_sized",
        "_state",
        "_timer",
        "_touched",
        "_transport",
        "_unaccounted",
        "_until",
        "_waiter",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._state = _State.IDLE
        self._waiter: asyncio.Future[bool] | None = None
        # One for the whole connection: one for each wait would be made and cancelled, nearly always for nothing.
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = self._until = math.inf
        self._failure: UpstreamError | None = None
        self._keep_alive = True
        self._paused = False
        self._forget()

    def _forget(self) -> None:
        """Drop what is known of the last answer."""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head: AnswerHead | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._unaccounted = 0
        self._interim = 0
        self._touched = False
        self._sized = False
        self._complete = False

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return (
            self._state is _State.IDLE
            and self._keep_alive
            # Nothing more is read where nobody took what is here.
            and not self._paused
            and self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
        )

    @property
    def keep_alive_s(self) -> float | None:
        """What the server said it will wait for the next request (``Keep-Alive: timeout=N``), if it did."""
        text = self._head.get(b"keep-alive") if self._head is not None else b""
        if not text:
            return None
        digits = text.lower().partition(b"timeout=")[2].partition(b",")[0].strip()
        return float(digits) if digits.isdigit() and len(digits) < 6 else None  # noqa: PLR2004 - a day is enough

    @property
    def head(self) -> AnswerHead | None:
        """The head of the answer, once it has come."""
        return self._head

    @property
    def complete(self) -> bool:
        """Whether the whole answer has come; pieces of it may still be there to take."""
        return self._complete

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send a whole request, its head complete and well-formed.

        Raises:
            ConnectionEndedError: The server had closed the connection.
        """
        if self._failure is not None or self._transport is None:
            raise ConnectionEndedError(untouched=True)
        if self._state is not _State.IDLE:
            raise AssertionError(self._state)
        self._forget()
        self._state = _State.HEAD
        self._transport.writelines(pieces)

    def take(self) -> bytes:
        """Return what of the body is there, or nothing."""
        pieces, self._pieces = self._pieces, []
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def wait(self, until: float) -> bool:
        """Wait for more of the answer; return False if none has come by ``until``, on the loop's clock.

        Raises:
            ConnectionEndedError: The answer was cut off.
            GarbledAnswerError: It is not in HTTP/1.1, or exceeds a bound.
        """
        if self._failure is not None:
            raise self._failure
        waiter = self._waiter = self._loop.create_future()
        self._until = until
        if until < self._looks_at:
            self._look_at(until)
        try:
            came: bool = await waiter
        finally:
            self._waiter = None
        return came

    def abort(self, reason: UpstreamError | None = None) -> None:
        """Close the connection at once; whoever waits for it gets ``reason``."""
        self._fail(reason or ConnectionEndedError())

    def _look_at(self, when: float) -> None:
        self._stop_timer()
        self._looks_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """End the wait if its time has come."""
        self._timer, self._looks_at = None, math.inf
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._until:
            self._look_at(self._until)
        else:
            self._waiter.set_result(False)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def _fail(self, reason: UpstreamError) -> None:
        if self._failure is None:
            self._failure = reason
        self._state = _State.CLOSED
        if self._transport is not None:
            self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's follow the interface without inheriting it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; its callbacks below do the rest."""
        if self._state is _State.IDLE or self._state is _State.CLOSED:
            self._fail(GarbledAnswerError("it sent bytes that answer no request"))
            return
        self._touched = True
        self._unaccounted += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(GarbledAnswerError("it does not answer in HTTP/1.1"))
            return
        if self._unaccounted > _MAX_HEAD and not self._complete:
            self._fail(GarbledAnswerError("the headers of its answer are too large"))
        elif self._buffered > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Let the transport close; ``connection_lost`` says what that means."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer if its end is that of the connection, otherwise fail it."""
        if self._state is _State.BODY and not self._sized and exc is None:
            self._end()
        self._fail(ConnectionEndedError(untouched=not self._touched))
        self._transport = None
        self._stop_timer()
        # It holds methods of the connection, which would hold it in turn.
        del self._parser

    def _end(self) -> None:
        self._complete = True
        self._state = _State.IDLE
        self._wake()

    # httptools, in the order in which they come

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request."""
        if self._complete:
            raise self._refused("it sent bytes that answer no request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header of the head; trailers are read past."""
        if self._head is None:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand over the head, unless it is an interim one."""
        status = self._parser.get_status_code()
        if status < _OK:
            self._interim += 1
            if status == _SWITCHING or self._interim > _MAX_INTERIM:
                raise self._refused("it sent too many interim answers, or one that was not asked for")
            return
        self._head = AnswerHead(status, tuple(self._fields))
        self._sized = any(name in {b"content-length", b"transfer-encoding"} for name, _ in self._fields)
        self._unaccounted = 0
        self._state = _State.BODY
        self._wake()

    def on_body(self, body: bytes) -> None:
        """Keep a piece until it is read."""
        self._pieces.append(body)
        self._buffered += len(body)
        self._unaccounted = 0
        self._wake()

    def on_message_complete(self) -> None:
        """End the answer, or the interim one."""
        if self._head is None:
            self._fields.clear()
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._end()

    def _refused(self, message: str) -> GarbledAnswerError:
        error = GarbledAnswerError(message)
        self._fail(error)
        return error


def is_field_value(value: bytes) -> bool:
    """Return whether ``value`` can stand in a header as it is: printable ASCII, and so no line break."""
    return not value.translate(None, _FIELD_BYTES)
