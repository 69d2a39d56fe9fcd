"""How uvicorn serves the gateway: the head of a response and what follows it leave in one write.

uvicorn writes the two apart, and uvloop hands each to the kernel at once. Of a small answer that is a second system
call, a second packet, and a client that is woken twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HttpProtocol", "JoinedWrites"]

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD: Final = b"HTTP/1."


class JoinedWrites:
    """A transport that holds a head until the next write, or the end of what the event loop does now.

    Everything else is the transport's own.

    Args:
        transport: Where it goes.
        soon: Calls a function once the event loop is done with what it does now.
    """

    def __init__(self, transport: asyncio.Transport, soon: Callable[[Callable[[], None]], object]) -> None:
        self._transport = transport
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
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on llhttp, with joined writes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve a connection."""
        joined = JoinedWrites(transport, asyncio.get_running_loop().call_soon)
        # It has the methods of a transport without inheriting them, as uvloop's own do.
        super().connection_made(cast("asyncio.Transport", joined))
