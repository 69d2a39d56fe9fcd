"""Upstream MCP servers that nobody here wrote, or made with the official SDK, on loopback."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.node import everything_command
from support.processes import accepts, end_group, free_port, started, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HttpUpstream",
    "announced",
    "dead_port",
    "everything_http",
    "everything_stdio_command",
    "hanging_port",
    "sdk_server",
    "time_command",
]

_READY_S = 30.0
_TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class HttpUpstream:
    """A server that listens: its port and the URL of its MCP endpoint."""

    port: int
    url: str


def everything_stdio_command() -> list[str]:
    """Return the command line of server-everything over stdio."""
    return everything_command("stdio")


def time_command() -> list[str]:
    """Return the command line of PyPI ``mcp-server-time``, whose zone does not depend on the machine."""
    return [sys.executable, "-m", "mcp_server_time", "--local-timezone", "Europe/Zurich"]


@contextmanager
def everything_http(log: Path) -> Iterator[HttpUpstream]:
    """Run server-everything over Streamable HTTP."""
    port = free_port()
    with started(everything_command("streamableHttp"), log=log, env={**os.environ, "PORT": str(port)}) as process:
        ready = wait_until(
            lambda: process.poll() is not None or accepts(port),
            within_s=_READY_S,
            what="server-everything listens",
        )
        assert ready
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield HttpUpstream(port, f"http://127.0.0.1:{port}/mcp")


def _first_line(process: subprocess.Popen[bytes], within_s: float) -> bytes:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(within_s), f"no line on standard output within {within_s:g} s"
        return process.stdout.readline()


@contextmanager
def announced(module: str, *arguments: str, log: Path) -> Iterator[int]:
    """Run a module of the tests that serves with ``support.serving``, and yield the port that it announces."""
    path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = _first_line(process, _READY_S)
        assert line, log.read_text(errors="replace")[-2000:]
        yield int(json.loads(line)["port"])
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(3.0)
        end_group(process)
        process.stdout.close()


@contextmanager
def sdk_server(flavour: str, log: Path) -> Iterator[HttpUpstream]:
    """Run ``support.sdk_server``: ``http`` (both eras), ``sse``, ``fast`` (JSON) or ``long`` (names)."""
    with announced("support.sdk_server", flavour, log=log) as port:
        yield HttpUpstream(port, f"http://127.0.0.1:{port}/{'sse' if flavour == 'sse' else 'mcp'}")


@contextmanager
def hanging_port() -> Iterator[HttpUpstream]:
    """Hold a port on which connections are established, by the kernel, and nothing ever answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        port = int(listener.getsockname()[1])
        yield HttpUpstream(port, f"http://127.0.0.1:{port}/mcp")


@contextmanager
def dead_port() -> Iterator[HttpUpstream]:
    """Hold a port that refuses connections; bound and not listened on, so that nobody else takes it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = int(holder.getsockname()[1])
        yield HttpUpstream(port, f"http://127.0.0.1:{port}/mcp")
