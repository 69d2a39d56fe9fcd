"""Calls through the gateway beside the same calls direct and through FastMCP's proxy, into docs/performance.md.

    PYTHONPATH=python:tests:bench python bench/gateway.py --fastmcp PYTHON [--seconds 3] [--out FILE]

Everything runs on loopback: a trivial upstream, ``agentapi dev`` on a real PostgreSQL with tokens checked and rate
limits on, the proxy of PyPI ``fastmcp`` (run by ``PYTHON``, which has it), and a load generator. All ways are measured
in turn in one run, so that a slow minute of the machine meets all of them. CPU is the gateway's own, from ``/proc``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from load import Job, Load, drive, modern, post, streams
from page import write_section
from relay_clients import fast_upstream
from support.directories import open_directory
from support.gateway import Gateway
from support.plain import PLAIN
from support.raw import good_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

CONCURRENCIES = (1, 16, 64)
LEGACY = "2025-11-25"
CALLS = 10_000
STREAMS = 1_000
LISTED = 200
_ARGUMENTS = {"message": "as fast as it goes"}
_LIMIT = "1000000"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One way at one concurrency."""

    load: Load
    cpu_ms: float
    """Of the process in the middle, for each call."""


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, its children not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int) -> float:
    """Return the resident size of a process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def measure(job: Job, pid: int | None, concurrency: int, seconds: float) -> Measured:
    """Warm up, then measure."""
    drive(job, concurrency, seconds=seconds, most=200)
    before = cpu_s(pid) if pid is not None else 0.0
    load = drive(job, concurrency, seconds=seconds)
    used = cpu_s(pid) - before if pid is not None else 0.0
    return Measured(load, used * 1000 / load.calls)


def legacy_call(gateway: Gateway, tool: str) -> Job:
    """Return a call in a session of the older revisions, which takes the SDK's path."""
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = httpx2.post(gateway.mcp_url, json=hello, headers=good_headers(gateway.token), timeout=30.0, **PLAIN)
    headers = {**good_headers(gateway.token), "mcp-protocol-version": LEGACY}
    if session := answer.headers.get("mcp-session-id"):
        headers["mcp-session-id"] = session
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    httpx2.post(gateway.mcp_url, json=ready, headers=headers, timeout=30.0, **PLAIN)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": _ARGUMENTS}}
    return post(gateway.mcp_url, call, headers)


@contextmanager
def fastmcp_proxy(python: str, url: str, *, cache_tls: bool) -> Iterator[tuple[str, int]]:
    """Run FastMCP's proxy and give its URL and process id."""
    command = [python, str(Path(__file__).with_name("fastmcp_proxy.py")), url, *(["--cache-tls"] if cache_tls else [])]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            port = json.loads(process.stdout.readline())["port"]
            yield f"http://127.0.0.1:{port}/mcp", process.pid
        finally:
            process.terminate()


def started(stack: ExitStack, root: Path, mode: str) -> Gateway:
    """Start a gateway in front of the servers of ``root/mcp.json`` that writes the audit log in ``mode``."""
    env = {f"AGENTAPI_RATE_LIMIT_{name}": _LIMIT for name in ("PER_MINUTE", "BURST", "ORG_PER_MINUTE", "ORG_BURST")}
    return stack.enter_context(
        Gateway.start(
            *("--mcp-config", str(root / "mcp.json")), data_dir=root / mode, env={**env, "AGENTAPI_AUDIT_MODE": mode}
        )
    )


def call(to: str, token: str | None, tool: str) -> Job:
    """Return a call of ``tool`` by a modern client."""
    return modern(to, token, "tools/call", {"name": tool, "arguments": _ARGUMENTS})


def relay(gateway: Gateway, seconds: float) -> Job:
    """Return a call that the relay of ``gateway`` serves from now on."""
    drive(modern(gateway.mcp_url, gateway.token, "tools/list", {}), 1, seconds=seconds, most=5)
    # The first call learns the era of the upstream; from then on the relay serves it.
    job = call(gateway.mcp_url, gateway.token, "fast__echo")
    drive(job, 1, seconds=seconds, most=5)
    return job


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything measured."""

    ways: dict[str, dict[int, Measured]]
    listing: Load
    memory: dict[str, float]
    fastmcp: str


def _measure_all(root: Path, python: str, seconds: float) -> Figures:
    with ExitStack() as stack:
        url = stack.enter_context(fast_upstream())
        many = stack.enter_context(fast_upstream("--tools", str(LISTED - 3)))
        servers = {"fast": {"type": "http", "url": url}, "many": {"type": "http", "url": many}}
        (root / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
        gateway = started(stack, root, "off")
        pid = gateway.process.pid
        recording = {f"relay, audit {mode}": started(stack, root, mode) for mode in ("buffered", "strict")}
        slow = stack.enter_context(fastmcp_proxy(python, url, cache_tls=False))
        quick = stack.enter_context(fastmcp_proxy(python, url, cache_tls=True))
        listing = modern(gateway.mcp_url, gateway.token, "tools/list", {})
        relayed = relay(gateway, seconds)
        ways: dict[str, tuple[Job, int | None]] = {
            "direct": (call(url, None, "echo"), None),
            "relay": (relayed, pid),
            **{name: (relay(each, seconds), each.process.pid) for name, each in recording.items()},
            "relay, event stream": (call(gateway.mcp_url, gateway.token, "fast__stream"), pid),
            "SDK path (legacy client)": (legacy_call(gateway, "fast__echo"), pid),
            "FastMCP proxy": (call(slow[0], None, "echo"), slow[1]),
            "FastMCP proxy, TLS context cached": (call(quick[0], None, "echo"), quick[1]),
        }
        memory = {"idle": rss_mib(pid)}
        drive(relayed, 16, seconds=120, most=CALLS)
        memory[f"after {CALLS:,} calls"] = rss_mib(pid)
        measured: dict[str, dict[int, Measured]] = {name: {} for name in ways}
        for concurrency in CONCURRENCIES:
            for name, (job, process) in ways.items():
                measured[name][concurrency] = measure(job, process, concurrency, seconds)
        listed = drive(listing, 1, seconds=seconds)
        memory["after all loads"] = rss_mib(pid)
        hold = modern(gateway.mcp_url, gateway.token, "tools/call", {"name": "fast__hold"}, logs=True)
        asyncio.run(_hold(hold, pid, memory))
        drive(relayed, 16, seconds=120, most=CALLS)
        memory["after they ended and another 10,000 calls"] = rss_mib(pid)
        version = subprocess.run(
            [python, "-c", "import fastmcp; print(fastmcp.__version__)"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for each in (gateway, *recording.values()):
            assert not each.tracebacks, each.tracebacks[:3]
    return Figures(measured, listed, memory, version)


async def _hold(job: Job, pid: int, memory: dict[str, float]) -> None:
    async with streams(job, STREAMS):
        memory[f"with {STREAMS:,} open event streams"] = rss_mib(pid)


def _machine(fastmcp: str) -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("mcp", "uvicorn", "uvloop", "httptools")]
    machine = found[1].strip() if found else platform.machine()
    parts = [f"{len(os.sched_getaffinity(0))} cores of {machine}", f"Python {platform.python_version()}", *versions]
    return ", ".join([*parts, f"fastmcp {fastmcp}"])


def _markdown(figures: Figures, seconds: float) -> str:
    lines = [
        "## Calls through the gateway",
        "",
        "`make bench-gateway` measures this anew: `tools/call` with an answer of some 300 bytes from a trivial server.",
        f"Each figure is one run of {seconds:g} s, all ways in turn, on {_machine(figures.fastmcp)}.",
        "The gateway is one process: tokens are checked, rate limits are on, requests are logged. The audit log is off",
        "but for the rows that name its mode, each of a gateway of its own. The load generator (`bench/load.py`), the",
        "upstream and the databases share the cores with it, so that *direct* shows their bound.",
        "",
        "| way | c | calls/s | p50 | p99 | CPU per call |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_concurrency in figures.ways.items():
        for concurrency, measured in by_concurrency.items():
            load = measured.load
            cpu = f"{measured.cpu_ms:.3f} ms" if measured.cpu_ms else ""
            row = f"| {name} | {concurrency} | {load.per_second:,.0f} | {load.p50_ms:.2f} ms | {load.p99_ms:.2f} ms |"
            lines.append(f"{row} {cpu} |")
    relayed, cached, plain, direct = (
        figures.ways[name] for name in ("relay", "FastMCP proxy, TLS context cached", "FastMCP proxy", "direct")
    )
    ratios = [relayed[c].load.per_second / cached[c].load.per_second for c in CONCURRENCIES]
    ratio, ratio_plain = (relayed[16].load.per_second / peer[16].load.per_second for peer in (cached, plain))
    added = relayed[1].load.p50_ms - direct[1].load.p50_ms
    lines += [
        "",
        f"At 16 connections the relay does {ratio:.0f} times the calls of FastMCP's proxy with its TLS context cached,",
        f"and {ratio_plain:.0f} times those of the proxy as it comes. Over the concurrencies the first ratio is",
        f"{min(ratios):.0f} to {max(ratios):.0f}. At one connection the gateway adds {added:.2f} ms to the median.",
        "",
        f"`tools/list` over more than {LISTED} tools, cached, at one connection: p50 {figures.listing.p50_ms:.2f} ms,",
        f"p95 {figures.listing.p95_ms:.2f} ms.",
        "",
        "| resident size of the gateway | MiB |",
        "|---|---|",
        *(f"| {when} | {size:.0f} |" for when, size in figures.memory.items()),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fastmcp", required=True, metavar="PYTHON", help="a Python that has fastmcp")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        text = _markdown(_measure_all(scratch, options.fastmcp, options.seconds), options.seconds)
    if options.out:
        write_section(options.out, "bench-gateway", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
