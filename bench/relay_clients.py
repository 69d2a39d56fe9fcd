"""Which HTTP client the relay stands on: calls per second and CPU of the candidates, against one fast upstream.

    PYTHONPATH=python:tests:bench python bench/relay_clients.py [--seconds 2]

Each candidate runs in a process of its own on uvloop, with keep-alive connections and a closed loop of ``tools/call``
at each concurrency. CPU is that of the candidate's process, from its own accounting. ``aiohttp`` has to be installed
for this and is no dependency. A client in Rust (hyper on tokio, awaited from asyncio) was a prototype outside the
tree; docs/performance.md has its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from ipaddress import ip_network
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import uvloop

from agentapi.egress import AddressPolicy, Egress
from agentapi.principal import OrgId, UpstreamId
from agentapi.upstreams.http_pool import HttpPool, PoolKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Call = Callable[[bytes], Awaitable[bytes]]

CONCURRENCIES = (1, 16, 64)
_HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "echo",
    "authorization": "Bearer " + "x" * 40,
}


class Figure(NamedTuple):
    """What one candidate did at one concurrency."""

    per_second: float
    cpu_ms: float


def _egress() -> Egress:
    policy = AddressPolicy(allow_networks=(ip_network("127.0.0.0/8"),), allow_http=True)
    return Egress(policy, max_connections=256)


@contextlib.asynccontextmanager
async def _httpx2(url: str) -> AsyncIterator[Call]:
    async with _egress() as egress, egress.client(headers=_HEADERS) as client:

        async def call(body: bytes) -> bytes:
            response = await client.post(url, content=body)
            assert response.status_code == 200
            return response.content

        yield call


@contextlib.asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Call]:
    aiohttp = importlib.import_module("aiohttp")
    connector = aiohttp.TCPConnector(limit=256)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
    ) as session:

        async def call(body: bytes) -> bytes:
            async with session.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
                assert response.status == 200
                answer: bytes = await response.read()
                return answer

        yield call


@contextlib.asynccontextmanager
async def _own(url: str) -> AsyncIterator[Call]:
    async with _egress() as egress:
        pool = HttpPool(
            egress.dialer, connect_timeout_s=5, max_connections=256, max_per_organization=256, max_per_upstream=256
        )
        destination = egress.dialer.destination(url)
        key = PoolKey(OrgId(UUID(int=1)), UpstreamId(UUID(int=2)), 1)
        fields = {"host": destination.authority.decode(), **_HEADERS}
        start = b"POST %b HTTP/1.1\r\n" % destination.target
        head = start + "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
        loop = asyncio.get_running_loop()

        async def call(body: bytes) -> bytes:
            pooled = await pool.take(key, destination)
            deadline = loop.time() + 60
            connection = pooled.connection
            connection.send([head + b"content-length: %d\r\n\r\n" % len(body) + body])
            while not connection.complete:
                assert await connection.wait(deadline)
            assert connection.head is not None
            assert connection.head.status == 200
            content = connection.take()
            pool.give_back(pooled)
            return content

        async with pool.run():
            yield call


_CANDIDATES = {"httpx2, guarded": _httpx2, "aiohttp": _aiohttp, "httptools on asyncio, guarded": _own}


def _body(tool: str) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    }
    params = {"name": tool, "arguments": {"message": "as fast as it goes"}, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


async def _measure(candidate: str, url: str, tool: str, seconds: float) -> dict[int, Figure]:
    body = _body(tool)
    figures: dict[int, Figure] = {}
    async with _CANDIDATES[candidate](url) as call:
        for concurrency in CONCURRENCIES:
            count = 0

            async def drive(until: float) -> None:
                nonlocal count
                while time.perf_counter() < until:
                    assert b'"result"' in await call(body)
                    count += 1

            await asyncio.gather(*(drive(time.perf_counter() + 0.3) for _ in range(concurrency)))
            count = 0
            begun, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(drive(begun + seconds) for _ in range(concurrency)))
            took_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
            figures[concurrency] = Figure(count / took_s, cpu_s / count * 1000)
    return figures


def _run(candidate: str, url: str, tool: str, seconds: float) -> dict[int, Figure]:
    return uvloop.run(_measure(candidate, url, tool, seconds))


@contextlib.contextmanager
def fast_upstream(*arguments: str) -> Iterator[str]:
    """Run the trivial upstream and give its URL."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fast_upstream.py")), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        announced: dict[str, Any] = json.loads(process.stdout.readline())
        yield f"http://127.0.0.1:{announced['port']}/mcp"
    finally:
        process.stdin.close()
        process.wait(5)
        process.stdout.close()


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    print("| client | answer | c=1 | c=16 | c=64 |")
    print("|---|---|---|---|---|")
    with fast_upstream() as url:
        for tool, answer in (("echo", "JSON"), ("stream", "event stream")):
            for candidate in _CANDIDATES:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    figures = process.submit(_run, candidate, url, tool, seconds).result()
                cells = (f"{figure.per_second:,.0f}/s, {figure.cpu_ms:.3f} ms" for figure in figures.values())
                print(f"| {candidate} | {answer} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
