"""Streams over real sockets: readers that pause, clients that vanish, and a server that stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentapi.gateway.call import read_message
from agentapi.gateway.reply import StreamLimits
from agentapi.request_body import read_body
from integration.api.harness import served
from unit.gateway.fronts import LEGACY, MODERN, SOON_S, StubRouter, World, call, modern_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.gateway.exchange import Exchange

CALL = modern_request("tools/call", {"name": "t", "arguments": {}})


@contextlib.asynccontextmanager
async def open_request(
    base: str, message: dict[str, Any] | None, **headers: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request on a socket of its own that takes little before somebody reads."""
    parts = urlsplit(base)
    # The limit is what the reader buffers by itself.
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4096)
    body = json.dumps(message).encode() if message is not None else b""
    fields = {
        "host": parts.netloc,
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = [f"{'GET' if message is None else 'POST'} / HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    writer.write("\r\n".join(head).encode() + body)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def modern_headers() -> dict[str, str]:
    return {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "t"}


def application(world: World) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            await world.legacy.serve(call(), None, scope, receive, send)
            return
        body = await read_body(scope, receive, max_bytes=1 << 20)
        incoming = read_message(body, max_bytes=1 << 20, max_depth=64)
        front = world.modern if incoming.envelope.protocol_version else world.legacy
        await front.serve(call(), incoming, scope, receive, send)

    return app


async def test_a_client_that_does_not_read_holds_up_the_upstream_and_not_the_memory() -> None:
    written, cancelled, stalled = 0, asyncio.Event(), asyncio.Event()
    size = 10_000

    async def answer(exchange: Exchange) -> dict[str, Any]:
        nonlocal written
        try:
            while True:
                progress = exchange.peer.notify("notifications/progress", {"progressToken": "x" * size})
                try:
                    async with asyncio.timeout(0.3):
                        await progress
                except TimeoutError:
                    stalled.set()
                    await asyncio.Event().wait()
                written += 1
        finally:
            cancelled.set()

    world = World(StubRouter({"tools/call": answer}), StreamLimits(buffer_bytes=50_000))
    async with served(application(world)) as base:
        async with open_request(base, CALL, **modern_headers()):
            await asyncio.wait_for(stalled.wait(), SOON_S)
            # What the kernel and the server buffer for a socket, and what the reply does: some MB, and not a torrent.
            assert written * size < 16_000_000
        await asyncio.wait_for(cancelled.wait(), SOON_S)


async def test_a_client_that_reads_slowly_gets_everything_in_order() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        for number in range(2000):
            await exchange.peer.notify("notifications/progress", {"progressToken": "x" * 1000, "progress": number})
        return {"resultType": "complete"}

    world = World(StubRouter({"tools/call": answer}), StreamLimits(buffer_bytes=10_000))
    async with served(application(world)) as base, open_request(base, CALL, **modern_headers()) as (reader, _):
        received = b""
        async with asyncio.timeout(30):
            while not received.endswith(b"0\r\n\r\n"):
                received += await reader.read(1000)
        numbers = [int(piece.split(b"}")[0]) for piece in received.split(b'"progress":')[1:]]
        assert numbers == list(range(2000))
        assert b'"resultType":"complete"' in received


async def test_a_client_that_vanishes_cancels_its_request() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> dict[str, Any]:
        if begun.is_set():
            return {"resultType": "complete"}
        begun.set()
        await exchange.peer.notify("notifications/progress", {"progressToken": 1})
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    world = World(StubRouter({"tools/call": answer}))
    async with served(application(world)) as base:
        async with open_request(base, CALL, **modern_headers()) as (reader, writer):
            await asyncio.wait_for(reader.readuntil(b"notifications/progress"), SOON_S)
            # Without a word, as when a machine loses its network.
            writer.transport.abort()
        await asyncio.wait_for(cancelled.wait(), SOON_S)
        async with open_request(base, CALL, **modern_headers()) as (reader, _):
            assert b"200 OK" in await asyncio.wait_for(reader.readline(), SOON_S)


async def test_streams_end_before_the_server_waits_for_them() -> None:
    world = World()
    session = await world.initialize()
    listen = modern_request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    async with served(application(world)) as base:
        headers = {"mcp_protocol_version": MODERN, "mcp_method": "subscriptions/listen"}
        async with (
            open_request(base, listen, **headers) as (modern, _),
            open_request(base, None, mcp_session_id=session, mcp_protocol_version=LEGACY) as (legacy, _),
        ):
            await asyncio.wait_for(modern.readuntil(b"acknowledged"), SOON_S)
            await asyncio.wait_for(legacy.readuntil(b"\r\n\r\n"), SOON_S)
            world.streams.drain()
            assert (await asyncio.wait_for(modern.readuntil(b"0\r\n\r\n"), SOON_S)).count(b'"result"') == 1
            await asyncio.wait_for(legacy.readuntil(b"0\r\n\r\n"), SOON_S)
    assert len(world.streams) == 0
