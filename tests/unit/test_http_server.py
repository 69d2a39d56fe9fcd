from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import uvicorn

from agentapi.http_server import (
    CLIENT_LIMITS_STATE,
    ClientLimits,
    HttpProtocol,
    JoinedWrites,
    Patience,
    spare_long_lived_objects,
)

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
            scope["state"][CLIENT_LIMITS_STATE] = ClientLimits(write_timeout_s=0.1)
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


class Echo:
    """Answers with what was read of a body, after ``released`` is set."""

    def __init__(self, limits: ClientLimits, *, reads: bool = True) -> None:
        self.limits = limits
        self.reads = reads
        self.released = asyncio.Event()
        self.released.set()
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"][CLIENT_LIMITS_STATE] = self.limits
            for part in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{part}.complete"})
            return
        self.scopes.append(scope)
        body, more = b"", self.reads
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await self.released.wait()
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


SMALL = ClientLimits(max_head_bytes=8192, head_timeout_s=60)
START = b"POST / HTTP/1.1\r\nHost: x\r\n"
WHOLE = START + b"Content-Length: 2\r\n\r\nok"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (START + b"x: " + b"a" * 8192, [431]),
        (START + b"x: " + b"a" * 400_000 + b"\r\nContent-Length: 0\r\n\r\n", [431]),
        (START + b"x: y\r\n" * 101, [431]),
        (START + b"x: y\r\n" * 101 + b"\r\n", [431]),
        (b"GET /" + b"a" * 9000, [431]),
        (b"\r\n" * 5000, [431]),
        (WHOLE + START + b"x: " + b"a" * 9000 + b"\r\n\r\n", []),
        (CHUNKED + b"x: " + b"a" * 600_000, []),
        (CHUNKED + b"x: y\r\n" * 110, []),
        (b"nonsense\r\n\r\n", [400]),
    ],
    ids=[
        "field without end",
        "long field",
        "fields without end",
        "many fields",
        "line without end",
        "empty lines",
        "second in one piece",
        "field behind the body",
        "fields behind the body",
        "no HTTP",
    ],
)
async def test_a_head_without_measure_is_refused_and_the_connection_closed(sent: bytes, answers: list[int]) -> None:
    async with running(Echo(SMALL), HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # An answer that is under way ends without a word in it.
        assert await _statuses(reader, writer, [sent]) == answers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pieces = [sent[start : start + 4096] for start in range(0, len(sent), 4096)]
        # Whoever goes on sending may lose what it was told, and the first request of two may have its answer before.
        assert (await _statuses(reader, writer, pieces))[-1:] in ([], answers, [431])


async def _statuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pieces: list[bytes]) -> list[int]:
    """Send ``pieces`` and return the statuses of all answers until the server closes."""
    received = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while got := await reader.read(65_536):
            received += got
    except ConnectionError:
        pass
    writer.close()
    return [int(answer[:3]) for answer in received.split(b"HTTP/1.1 ")[1:]]


async def test_bodies_and_heads_within_measure_pass() -> None:
    body = bytes(500_000)
    sent = START + b"x: " + b"a" * 7000 + b"\r\nContent-Length: 500000\r\n\r\n" + body
    many = START + b"x: y\r\n" * 90 + b"Content-Length: 2\r\nConnection: close\r\n\r\nok"
    async with running(Echo(SMALL), HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _statuses(reader, writer, [sent + CHUNKED + b"\r\n" + WHOLE + many]) == [200] * 4


async def test_what_comes_behind_a_body_is_no_header_of_the_request() -> None:
    echo = Echo(SMALL)
    async with running(echo, HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED + b"Authorization: Bearer x\r\n\r\n")
        await reader.readuntil(b"ok")
        writer.close()
    assert [name for name, _ in echo.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", []),
        (START, [408]),
        (WHOLE + START, [200, 408]),
    ],
    ids=["silence", "half a head", "half of the second"],
)
async def test_a_head_that_does_not_come_to_its_end_is_given_up(sent: bytes, answers: list[int]) -> None:
    limits = ClientLimits(head_timeout_s=0.1)
    async with running(Echo(limits), HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _statuses(reader, writer, [sent]) == answers


class Brief(HttpProtocol):
    """Keeps a connection for a tenth of a second after an answer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timeout_keep_alive = cast("int", 0.1)


@pytest.mark.parametrize(
    ("sent", "answers"),
    [(WHOLE, [200]), (WHOLE * 3, [200] * 3)],
    ids=["one request", "several at once"],
)
async def test_a_connection_that_was_answered_is_kept_for_a_while_only(sent: bytes, answers: list[int]) -> None:
    async with running(Echo(ClientLimits(head_timeout_s=60)), Brief) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _statuses(reader, writer, [sent]) == answers


async def test_whoever_has_begun_another_request_in_that_while_has_the_time_of_a_head() -> None:
    async with running(Echo(ClientLimits(head_timeout_s=60)), Brief) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WHOLE)
        await reader.readuntil(b"ok")
        writer.write(WHOLE[:10])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reader.read(1)
        writer.write(WHOLE[10:])
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_body_that_nobody_reads_does_not_hold_its_connection() -> None:
    async with running(Echo(ClientLimits(head_timeout_s=0.1), reads=False), HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(START + b"Content-Length: 1000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"a")
        while await reader.read(1024):
            pass
        writer.close()


async def test_the_time_of_an_answer_is_not_the_clients() -> None:
    echo = Echo(ClientLimits(head_timeout_s=0.05))
    echo.released.clear()
    async with running(echo, HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WHOLE)
        asyncio.get_running_loop().call_later(0.3, echo.released.set)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(WHOLE)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_head_too_large_ends_an_answer_that_is_under_way_without_a_word_in_it() -> None:
    echo = Echo(SMALL)
    echo.released.clear()
    async with running(echo, HttpProtocol) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _statuses(reader, writer, [WHOLE + START, b"x: " + b"a" * 600_000]) == []


def test_what_is_there_at_start_up_is_not_looked_at_by_the_collector() -> None:
    thresholds = gc.get_threshold()
    try:
        spare_long_lived_objects()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == (10_000, *thresholds[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
