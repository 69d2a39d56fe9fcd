"""A load generator in Python that costs little: a closed loop of one prepared request over keep-alive connections.

It parses no more than the status and the length of an answer, in a process of its own on uvloop. ``k6`` is on no
package registry, and a generator that costs more than what it measures would measure itself on two cores.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import uvloop

from support.raw import good_headers, modern_headers, modern_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

WARM_UP = 200
_ID = 100_000
_LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Load:
    """What one run gave."""

    calls: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Job:
    """What to send where: ``needle`` has to be in every answer."""

    url: str
    request: bytes
    needle: bytes = b'"result"'
    status: bytes = b"200"

    def of(self, connection: int) -> bytes:
        """Return the request with an id of its own, since one session has each id under way once at most."""
        return self.request.replace(b"%d" % _ID, b"%d" % (_ID + connection))


def post(url: str, message: Mapping[str, Any], headers: Mapping[str, str]) -> Job:
    """Return a POST of ``message``."""
    parts = urlsplit(url)
    body = json.dumps({**message, "id": _ID}).encode()
    fields = {"host": parts.netloc, **headers, "content-length": str(len(body))}
    head = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return Job(url, "\r\n".join([*head, "", ""]).encode() + body)


def modern(url: str, token: str | None, method: str, params: Mapping[str, Any], *, logs: bool = False) -> Job:
    """Return a request of the 2026-07-28 revision."""
    message = modern_message(method, params)
    if logs:
        message["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = "info"
    return post(url, message, {**good_headers(token), **modern_headers(message)})


class _Connection(asyncio.Protocol):
    """Sends the next request when the last answer is complete."""

    def __init__(self, job: Job, number: int, more: Callable[[], bool], latencies: list[float]) -> None:
        self._request = job.of(number)
        self._needle = job.needle
        self._first_line = b"HTTP/1.1 " + job.status
        self._more = more
        self._latencies = latencies
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports follow the interface without inheriting it.
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        if not self._more():
            self._transport.close()
            self.done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        start = received.find(_LENGTH, 0, end)
        if start < 0:
            start = received.find(b"Content-Length: ", 0, end)
        if start < 0:
            if not received.endswith(b"0\r\n\r\n"):
                return
        elif len(received) - end - 4 < int(received[start + len(_LENGTH) : received.find(b"\r", start)]):
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        if not received.startswith(self._first_line) or self._needle not in received:
            self._fail(received[:600].decode(errors="replace"))
            return
        self._received = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"closed in the middle: {exc}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


async def _drive(job: Job, concurrency: int, seconds: float, most: int) -> Load:
    parts = urlsplit(job.url)
    assert parts.port is not None
    latencies: list[float] = []
    left = most
    begun = time.perf_counter()

    def more() -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and time.perf_counter() - begun < seconds

    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(partial(_Connection, job, number, more, latencies), "127.0.0.1", parts.port)
        for number in range(concurrency)
    ]
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(connection.done for _, connection in opened))
    took_s = time.perf_counter() - begun
    latencies.sort()

    def quantile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000

    return Load(len(latencies), len(latencies) / took_s, quantile(0.5), quantile(0.95), quantile(0.99))


def _run(job: Job, concurrency: int, seconds: float, most: int) -> Load:
    return uvloop.run(_drive(job, concurrency, seconds, most))


def drive(job: Job, concurrency: int, *, seconds: float, most: int = 10**9) -> Load:
    """Send ``job`` over ``concurrency`` connections for ``seconds``, or ``most`` times."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_run, job, concurrency, seconds, most).result()


@asynccontextmanager
async def streams(job: Job, count: int) -> AsyncIterator[None]:
    """Hold ``count`` event streams open, each of which has begun."""
    parts = urlsplit(job.url)
    opened = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", parts.port)
            opened.append(writer)
            writer.write(job.of(len(opened)))
            async with asyncio.timeout(30):
                received = await reader.readuntil(b"\n\n")
                while b"data: " not in received:
                    received += await reader.readuntil(b"\n\n")
            assert received.startswith(b"HTTP/1.1 200"), received[:600]
        yield
    finally:
        for writer in opened:
            writer.close()
