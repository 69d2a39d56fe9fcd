"""A trivial MCP server of the 2026-07-28 revision that answers as fast as Python can, to measure what stands before it.

``python bench/fast_upstream.py [--tools N]`` listens on a free loopback port, prints ``{"port": N}`` and ends with its
standard input. ``echo`` answers about 300 bytes of JSON, ``stream`` the same as an event stream, and ``hold`` an event
stream that begins and never ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any, Final, cast

import uvloop

VERSION: Final = "2026-07-28"
_JSON: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_EVENTS: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PADDING: Final = "as fast as it goes, " * 7


def _tool(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Say something back ({name}).",
        "inputSchema": {
            "type": "object",
            "properties": {"message": {"type": "string", "description": "What to say back."}},
        },
    }


class FastUpstream(asyncio.Protocol):
    """One connection of a client; requests may come in pieces, but not more than one at a time."""

    def __init__(self, tools: int) -> None:
        self._names = ["echo", "stream", "hold", *(f"tool_{number:03}" for number in range(tools))]
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's follow the interface without inheriting it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as the body is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        start = lowered.find(b"content-length:") + len(b"content-length:")
        end = lowered.find(b"\r\n", start)
        if len(body) < int(lowered[start:] if end < 0 else lowered[start:end]):
            return
        self._received = b""
        assert self._transport is not None
        self._transport.write(self._answer(json.loads(body)))

    def _answer(self, message: dict[str, Any]) -> bytes:
        method, params = message["method"], message.get("params", {})
        if method == "tools/call" and params["name"] == "hold":
            params = {"level": "info", "data": "held"}
            note = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params}).encode()
            event = b"event: message\r\ndata: " + note + b"\r\n\r\n"
            return _EVENTS + b"%x\r\n%s\r\n" % (len(event), event)
        result = self._result(method)
        if result is None:
            error = {"code": -32601, "message": "Method not found"}
            body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": error}).encode()
            return _NOT_FOUND % (len(body), body)
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        if method == "tools/call" and params["name"] == "stream":
            event = b"event: message\r\ndata: " + body + b"\r\n\r\n"
            return _EVENTS + b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
        return _JSON % (len(body), body)

    def _result(self, method: str) -> dict[str, Any] | None:
        if method == "tools/call":
            return {"resultType": "complete", "content": [{"type": "text", "text": _PADDING}], "isError": False}
        if method == "tools/list":
            tools = [_tool(name) for name in self._names]
            return {"resultType": "complete", "tools": tools, "ttlMs": 60_000, "cacheScope": "private"}
        if method == "server/discover":
            return {
                "resultType": "complete",
                "supportedVersions": [VERSION],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "fast", "version": "1"},
                "ttlMs": 60_000,
                "cacheScope": "public",
            }
        return None


async def _serve(tools: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: FastUpstream(tools), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", type=int, default=0)
    uvloop.run(_serve(parser.parse_args().tools))
