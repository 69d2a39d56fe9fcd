"""Upstreams that answer what they must to be listed, and misbehave when a tool is called.

Over HTTP the tool's name says what goes wrong with the answer. ``python -m support.misbehaving`` is the same
over stdio, where the answer is a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Fault = Callable[[asyncio.StreamWriter, str], Awaitable[None]]

__all__ = ["HTTP_FAULTS", "HUGE_BYTES", "STDIO_FAULTS", "MisbehavingServer", "misbehaving_http"]

HUGE_BYTES = 100 * 1024 * 1024
FLOOD_BYTES = 24 * 1024 * 1024
"""More than the gateway takes of one stream, see ``AGENTAPI_UPSTREAM_STREAM_MB`` of the test."""
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_REVISION = "2026-07-28"


def _head(status: str = "200 OK", mime_type: str = "application/json", **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {mime_type}", *lines, "", ""]).encode()


def _answer(identifier: str, content: str = "late") -> bytes:
    """Return the whole answer of a call; ``identifier`` is JSON."""
    result = {"resultType": "complete", "content": [{"type": "text", "text": content}]}
    return f'{{"jsonrpc":"2.0","id":{identifier},"result":{json.dumps(result)}}}'.encode()


def _progress() -> bytes:
    params = {"progressToken": "none", "progress": 1}
    notification = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    return b"event: message\ndata: " + json.dumps(notification).encode() + b"\n\n"


async def _never() -> None:
    await asyncio.Event().wait()


async def _hang(_: asyncio.StreamWriter, __: str) -> None:
    await _never()


async def _hang_after_head(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(content_length=100))
    await _never()


async def _hang_in_stream(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(mime_type="text/event-stream") + _progress())
    await _never()


async def _dribble(writer: asyncio.StreamWriter, identifier: str) -> None:
    """Send a good answer, a byte a second."""
    body = _answer(identifier)
    writer.write(_head(content_length=len(body)))
    for byte in body:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def _dribble_head(writer: asyncio.StreamWriter, _: str) -> None:
    for byte in _head(content_length=2) + b"{}":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def _dribble_comments(writer: asyncio.StreamWriter, _: str) -> None:
    """Keep an event stream busy without ever saying anything."""
    writer.write(_head(mime_type="text/event-stream"))
    while True:
        writer.write(b": still here\n\n")
        await writer.drain()
        await asyncio.sleep(0.2)


async def _not_http(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(b"\x16\x03\x01\x00\xff\x00garbage\r\n\r\n")


async def _not_json(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(content_length=9) + b"<html>no!")


async def _other_type(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(mime_type="text/html", content_length=9) + b"<html>no!")


async def _not_rpc(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(content_length=12) + b'["no", 1, 2]')


async def _no_result(writer: asyncio.StreamWriter, identifier: str) -> None:
    body = f'{{"jsonrpc":"2.0","id":{identifier}}}'.encode()
    writer.write(_head(content_length=len(body)) + body)


async def _other_id(writer: asyncio.StreamWriter, _: str) -> None:
    body = _answer('"somebody-else"')
    writer.write(_head(content_length=len(body)) + body)


async def _garbled_stream(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(mime_type="text/event-stream") + b"event: message\ndata: {no\n\n\xff\xfe\x00\n\n")


async def _empty_stream(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head(mime_type="text/event-stream"))


async def _server_error(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head("500 Internal Server Error", "text/plain", content_length=5) + b"oops!")


async def _redirect(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(_head("307 Temporary Redirect", location="http://169.254.169.254/", content_length=0))


async def _dies(_: asyncio.StreamWriter, __: str) -> None:
    return


async def _dies_in_body(writer: asyncio.StreamWriter, identifier: str) -> None:
    body = _answer(identifier)
    writer.write(_head(content_length=len(body)) + body[: len(body) // 2])


async def _dies_in_chunk(writer: asyncio.StreamWriter, identifier: str) -> None:
    body = _answer(identifier)
    writer.write(_head(transfer_encoding="chunked") + f"{len(body):x}\r\n".encode() + body[: len(body) // 2])


async def _dies_in_stream(writer: asyncio.StreamWriter, identifier: str) -> None:
    event = b"event: message\ndata: " + _answer(identifier)
    writer.write(_head(mime_type="text/event-stream") + _progress() + event[: len(event) // 2])


async def _flood(writer: asyncio.StreamWriter, start: bytes, end: bytes) -> None:
    """Send ``HUGE_BYTES`` of one text between ``start`` and ``end``."""
    piece = b"x" * 1_048_576
    writer.write(start)
    for _ in range(HUGE_BYTES // len(piece)):
        writer.write(piece)
        await writer.drain()
    writer.write(end)
    await writer.drain()


async def _huge_body(writer: asyncio.StreamWriter, identifier: str) -> None:
    start, _, end = _answer(identifier, "MARK").partition(b"MARK")
    await _flood(writer, _head(content_length=len(start) + HUGE_BYTES + len(end)) + start, end)


async def _huge_event(writer: asyncio.StreamWriter, identifier: str) -> None:
    start, _, end = _answer(identifier, "MARK").partition(b"MARK")
    await _flood(writer, _head(mime_type="text/event-stream") + b"event: message\ndata: " + start, end + b"\n\n")


async def _huge_line(writer: asyncio.StreamWriter, _: str) -> None:
    """Send one line of the head that never ends."""
    await _flood(writer, b"HTTP/1.1 200 OK\r\nx-huge: ", b"\r\n\r\n")


async def _repeat(writer: asyncio.StreamWriter, event: bytes, total: int | None = None) -> None:
    """Send an event again and again as fast as it is read: ``total`` bytes of them, or without an end."""
    writer.write(_head(mime_type="text/event-stream"))
    piece = event * max(1, 65_536 // len(event))
    sent = 0
    while total is None or sent < total:
        writer.write(piece)
        await writer.drain()
        sent += len(piece)


async def _comment_flood(writer: asyncio.StreamWriter, _: str) -> None:
    await _repeat(writer, b": still here\n\n")


async def _notification_flood(writer: asyncio.StreamWriter, _: str) -> None:
    """Send progress of a request that nobody made."""
    await _repeat(writer, _progress())


async def _late_answer(writer: asyncio.StreamWriter, identifier: str) -> None:
    """Send a good answer, behind more than the whole stream may hold."""
    await _repeat(writer, _progress(), FLOOD_BYTES)
    writer.write(b"event: message\ndata: " + _answer(identifier) + b"\n\n")


HTTP_FAULTS: dict[str, Fault] = {
    "hang": _hang,
    "hang_after_head": _hang_after_head,
    "hang_in_stream": _hang_in_stream,
    "dribble": _dribble,
    "dribble_head": _dribble_head,
    "dribble_comments": _dribble_comments,
    "not_http": _not_http,
    "not_json": _not_json,
    "other_type": _other_type,
    "not_rpc": _not_rpc,
    "no_result": _no_result,
    "other_id": _other_id,
    "garbled_stream": _garbled_stream,
    "empty_stream": _empty_stream,
    "server_error": _server_error,
    "redirect": _redirect,
    "dies": _dies,
    "dies_in_body": _dies_in_body,
    "dies_in_chunk": _dies_in_chunk,
    "dies_in_stream": _dies_in_stream,
    "comment_flood": _comment_flood,
    "notification_flood": _notification_flood,
    "late_answer": _late_answer,
    "huge_body": _huge_body,
    "huge_event": _huge_event,
    "huge_line": _huge_line,
}


def _tools(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "description": name, "inputSchema": {"type": "object"}} for name in names]


def _ordinary(method: str, names: tuple[str, ...], *, modern: bool) -> dict[str, Any] | None:
    """Return the result of what is not a call, or None where there is no such method in the era."""
    capabilities: dict[str, Any] = {"tools": {}}
    complete = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if modern else {}
    handshake = {"protocolVersion": "2025-11-25", "serverInfo": {"name": "misbehaving", "version": "1"}}
    results: dict[str, dict[str, Any]] = {"tools/list": {**complete, "tools": _tools(names)}}
    if modern:
        results["server/discover"] = {**complete, "supportedVersions": [_REVISION], "capabilities": capabilities}
    else:
        results |= {"initialize": {**handshake, "capabilities": capabilities}, "ping": {}}
    return results.get(method)


class MisbehavingServer:
    """Speaks just enough HTTP to be listed by a gateway and then to fail it."""

    def __init__(self, *, modern: bool) -> None:
        self._modern = modern
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task of its own."""
        task = asyncio.ensure_future(self._until_gone(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """End all connections."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _until_gone(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve requests, and stop in the midst of one when the other side is gone."""
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not head.startswith(b"POST ") or found is None:
            writer.write(_head("405 Method Not Allowed", content_length=0))
            return True
        message = json.loads(await reader.readexactly(int(found[1])))
        method, identifier = message.get("method"), json.dumps(message.get("id"))
        if method == "tools/call":
            fault = asyncio.ensure_future(HTTP_FAULTS[message["params"]["name"]](writer, identifier))
            # The other side says nothing more; that it reads is that it is gone.
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({fault, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in (fault, gone):
                task.cancel()
            await asyncio.gather(fault, gone, return_exceptions=True)
            return False
        body, status = b"", "202 Accepted"
        if "id" in message:
            result = _ordinary(method, tuple(HTTP_FAULTS), modern=self._modern)
            error = {"code": -32601, "message": "Method not found"}
            status = "400 Bad Request" if result is None else "200 OK"
            answer = {"error": error} if result is None else {"result": result}
            body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}).encode()
        writer.write(_head(status, content_length=len(body)) + body)
        return True


@asynccontextmanager
async def misbehaving_http(*, modern: bool) -> AsyncIterator[MisbehavingServer]:
    """Listen on a free port of loopback."""
    server = MisbehavingServer(modern=modern)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    server.port = int(listener.sockets[0].getsockname()[1])
    async with listener:
        try:
            yield server
        finally:
            await server.close()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _stdio_dribble(identifier: str) -> None:
    for byte in _answer(identifier):
        _write(bytes([byte]))
        time.sleep(1)


def _stdio_huge(identifier: str) -> None:
    start, _, end = _answer(identifier, "MARK").partition(b"MARK")
    _write(start)
    for _ in range(HUGE_BYTES // 1_048_576):
        _write(b"x" * 1_048_576)
    _write(end + b"\n")


def _stdio_dies_in_line(identifier: str) -> None:
    body = _answer(identifier)
    _write(body[: len(body) // 2])
    os._exit(3)


STDIO_FAULTS: dict[str, Callable[[str], None]] = {
    "hang": lambda _: None,
    "dribble": _stdio_dribble,
    "garbage": lambda _: _write(b"\xff\xfe\x00 no JSON\n<html>\n"),
    "other_id": lambda _: _write(_answer('"somebody-else"') + b"\n"),
    "dies": lambda _: os._exit(3),
    "dies_in_line": _stdio_dies_in_line,
    "huge": _stdio_huge,
}


def main() -> None:
    """Serve the older revisions over stdio."""
    for line in sys.stdin:
        message = json.loads(line)
        identifier = json.dumps(message.get("id"))
        if message["method"] == "tools/call":
            STDIO_FAULTS[message["params"]["name"]](identifier)
        elif "id" in message:
            result = _ordinary(message["method"], tuple(STDIO_FAULTS), modern=False)
            error = {"code": -32601, "message": "Method not found"}
            answer = {"error": error} if result is None else {"result": result}
            _write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}).encode() + b"\n")


if __name__ == "__main__":
    main()
