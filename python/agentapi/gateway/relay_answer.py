"""What a client gets from the relay: JSON where nothing precedes the answer, an event stream as soon as something does.

Whoever writes waits until the client has room. The relay reads nothing more meanwhile, so that a slow client slows its
upstream and nobody buffers for it.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog

from agentapi.deadlines import within
from agentapi.gateway.reply import TokenEndedError
from agentapi.request_body import ClientGoneError

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from agentapi.gateway.reply import Answer, StreamLimits

__all__ = ["ClientStream"]

_log = structlog.get_logger(__name__)

_ON_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
_PING: Final = b": ping\n\n"
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx and its like hold events back otherwise.
    (b"x-accel-buffering", b"no"),
)


class ClientStream:
    """Writes the response of one request.

    Args:
        send: Where it goes.
        limits: Of the stream.
        expires_at: When a stream ends, in Unix seconds; an answer that needs none may come later.
    """

    def __init__(self, send: Send, limits: StreamLimits, expires_at: float) -> None:
        self._send = send
        self._time = asyncio.get_running_loop().time
        self._ping_s = limits.ping_s
        self.ping_due = self._time() + limits.ping_s
        """When the client has heard nothing for so long that it is to be told of life, or its stream is to end."""
        self._end = self._time() + expires_at - time.time()
        self._write_timeout_s = limits.write_timeout_s
        self._streaming = False
        self.heard = False
        """Whether the client was told anything that belongs to its request."""

    async def event(self, message: bytes) -> None:
        """Write a message that precedes the answer.

        Raises:
            ClientGoneError: Nobody reads it.
            TokenEndedError: There is no time left for it.
        """
        self.heard = True
        await self._write(_event(message))

    async def ping(self) -> None:
        """Write a comment, so that nobody between takes the connection for dead.

        Raises:
            ClientGoneError: Nobody reads it.
            TokenEndedError: There is no time left for it.
        """
        await self._write(_PING)

    async def finish(self, answer: Answer) -> None:
        """Write the answer and end the response.

        Raises:
            ClientGoneError: Nobody reads it.
        """
        if self._streaming:
            await self._pass_on(_body(_event(answer.body), more=False))
            return
        headers = [_JSON, (b"content-length", b"%d" % len(answer.body)), *answer.headers]
        start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await self._pass_on(start, _body(answer.body, more=False))

    async def _write(self, event: bytes) -> None:
        if self._time() >= self._end:
            raise TokenEndedError
        if not self._streaming:
            self._streaming = True
            await self._pass_on({"type": "http.response.start", "status": HTTPStatus.OK, "headers": [*_STREAM]})
        await self._pass_on(_body(event, more=True))
        self.ping_due = min(self._time() + self._ping_s, self._end)

    async def _pass_on(self, *messages: Message) -> None:
        try:
            await within(self._write_timeout_s, _sent(self._send, messages))
        except TimeoutError:
            _log.info("client_does_not_read", waited_s=self._write_timeout_s)
            raise ClientGoneError from None
        except OSError:
            # ASGI 2.4: a server may say so that the client has gone.
            raise ClientGoneError from None


async def _sent(send: Send, messages: tuple[Message, ...]) -> None:
    for message in messages:
        await send(message)


def _event(message: bytes) -> bytes:
    """Return ``message`` on one line; strict JSON has line breaks between its tokens only."""
    return b"event: message\ndata: %b\n\n" % message.translate(_ON_ONE_LINE)


def _body(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
