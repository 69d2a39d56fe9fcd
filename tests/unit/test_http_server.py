from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import uvicorn

from agentapi.http_server import WRITE_TIMEOUT_STATE, HttpProtocol, JoinedWrites, Patience, spare_long_lived_objects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """What arrives at the kernel, write by write; closing it is told as a write of None."""

    def __init__(self) -> None:
        self.writes: list[bytes | None] = []
        self.later: list[Callable[[], None]] = []
        self.transport = JoinedWrites(cast("asyncio.Transport", self), self.later.append)

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.writes.append(None)

    def is_closing(self) -> bool:
        return True


def test_a_head_leaves_with_what_follows_it() -> None:
    wire = Wire()
    wire.transport.write(HEAD)
    wire.transport.write(b"body")
    wire.transport.write(b"more")
    wire.later[0]()
    assert wire.writes == [HEAD + b"body", b"more"]


def test_a_head_that_nothing_follows_leaves_soon() -> None:
    wire = Wire()
    wire.transport.write(HEAD)
    assert wire.writes == []
    wire.later[0]()
    assert wire.writes == [HEAD]


def test_closing_writes_the_head_first() -> None:
    wire = Wire()
    wire.transport.write(HEAD)
    wire.transport.close()
    assert wire.writes == [HEAD, None]


def test_all_else_is_the_transports_own() -> None:
    assert Wire().transport.is_closing()


class Mailbox:
    """A transport whose client takes ``sizes`` down, look by look."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes)
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        # The last size stays.
        return self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]

    def abort(self) -> None:
        self.aborted.set()


async def test_a_client_that_reads_slowly_is_served_and_one_that_stops_is_given_up() -> None:
    # A look at the size and one at where it stands now make a round.
    transport = Mailbox(100, 90, 90, 80, 80, 80)
    Patience(cast("asyncio.Transport", transport), 0.01).begin()
    async with asyncio.timeout(5):
        await transport.aborted.wait()
    assert transport.sizes == [80]


@pytest.mark.parametrize("ends", [True, False], ids=["the answer is all", "the stream goes on"])
async def test_a_client_that_reads_nothing_does_not_hold_its_connection(ends: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"][WRITE_TIMEOUT_STATE] = 0.1
            for part in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{part}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1 if ends else 2):
            await send({"type": "http.response.body", "body": bytes(32 * 1024 * 1024), "more_body": not ends})

    lost = asyncio.Event()

    class Watched(HttpProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    async with running(app, Watched) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await lost.wait()
        writer.close()


@asynccontextmanager
async def running(app: ASGIApp, protocol: type[HttpProtocol]) -> AsyncIterator[int]:
    """Serve ``app`` on a free port of loopback."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    # Signals are pytest's.
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, timeout_graceful_shutdown=0))
    task = asyncio.ensure_future(server._serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


def test_what_is_there_at_start_up_is_not_looked_at_by_the_collector() -> None:
    thresholds = gc.get_threshold()
    try:
        spare_long_lived_objects()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == (10_000, *thresholds[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
