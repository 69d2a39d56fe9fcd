"""An HTTP server on loopback that answers with whatever bytes a test says, at the pace it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

__all__ = ["RawUpstream", "Request", "chunk", "events", "json_answer", "serve_raw", "sse"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message


@dataclass
class RawUpstream:
    """A server under a test's control."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    ended: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    """Filled whenever a client has closed its connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serve_raw(handler: Handler, *, context: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    """Run ``handler`` for each request; it may close the writer to end the connection."""
    state = RawUpstream()
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        state.connections += 1
        early: object = b""
        try:
            while not writer.is_closing():
                request = await _request(reader, early)
                state.requests.append(request)
                answering = asyncio.ensure_future(handler(request, writer))
                watching = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    # Whether a byte or the end came: this client does not wait for its answer.
                    answering.cancel()
                    return
                watching.cancel()
                # The next request may have begun meanwhile.
                (early,) = await asyncio.gather(watching, return_exceptions=True)
                await answering
                if not writer.is_closing():
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            state.ended.put_nowait(None)
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader, begun: object) -> Request:
    begun = begun if isinstance(begun, bytes) else b""
    head = (begun + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in head[1:] if line)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Request(head[0], headers, await reader.readexactly(length))


def json_answer(message: object, *, status: str = "200 OK", kind: str = "application/json", more: bytes = b"") -> bytes:
    """Return an HTTP answer with a body of JSON, or of bytes."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n".encode()
    return head + more + b"\r\n" + body


def sse(message: object) -> bytes:
    """Return one event."""
    return b"event: message\r\ndata: " + json.dumps(message).encode() + b"\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    """Return one chunk; an empty one ends the answer."""
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def events(*messages: object, end: bool = True) -> bytes:
    """Return an HTTP answer of events."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunk(sse(message)) for message in messages) + (chunk(b"") if end else b"")
