"""How uvicorn serves the gateway: a response's head leaves with what follows it, and clients have to read.

uvicorn writes head and body apart, and uvloop hands each to the kernel at once. Of a small answer that is a second
system call, a second packet, and a client that is woken twice.

It also waits for ever for a client to take what was written. The application cannot help that: its last write returns
at once, and all it leaves behind is a connection and what the connection still holds.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["WRITE_TIMEOUT_STATE", "HttpProtocol", "JoinedWrites", "Patience", "spare_long_lived_objects"]

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger(__name__)

WRITE_TIMEOUT_STATE: Final = "client_write_timeout_s"
"""Under this name the application's lifespan state says how long a client may read nothing."""
_WRITE_TIMEOUT_S: Final = 30.0

_HEAD: Final = b"HTTP/1."

_YOUNG_OBJECTS: Final = 10_000
"""Objects made and not let go after which the collector looks at them; by default it does so at every other request."""


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
    """uvicorn's HTTP/1.1 on llhttp, with joined writes, and for clients that read."""

    _patience: Patience

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve a connection."""
        self._patience = Patience(transport, float(self.app_state.get(WRITE_TIMEOUT_STATE, _WRITE_TIMEOUT_S)))
        joined = JoinedWrites(transport, asyncio.get_running_loop().call_soon, self._patience.begin)
        # It has the methods of a transport without inheriting them, as uvloop's own do.
        super().connection_made(cast("asyncio.Transport", joined))

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        self._patience.end()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client, which has to read something now and then; uvicorn writes nothing meanwhile."""
        super().pause_writing()
        self._patience.begin()

    def resume_writing(self) -> None:
        """Go on."""
        self._patience.end()
        super().resume_writing()


def spare_long_lived_objects() -> None:
    """Have the garbage collector pass over what is there now, which lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
