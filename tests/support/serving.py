"""An ASGI application as a process of its own: it says where it listens and ends with its standard input."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING

import anyio.to_thread
import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["serve"]


class _AnnouncingServer(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        sys.stdout.write(json.dumps({"port": sockets[0].getsockname()[1]}) + "\n")
        sys.stdout.flush()


async def serve(app: ASGIApp) -> None:
    """Serve ``app`` on a free loopback port, print ``{"port": N}``, and stop when standard input ends."""
    # asyncio turns Nagle's algorithm off only where the socket says that it is TCP; with it, every answer
    # in two pieces waits 40 ms for a delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    runner = _AnnouncingServer(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="on")
    )

    async def end_with_standard_input() -> None:
        await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
        runner.should_exit = True
        # A stream that a client keeps open would hold the exit back.
        runner.force_exit = True

    watcher = asyncio.ensure_future(end_with_standard_input())
    await runner.serve(sockets=[listener])
    watcher.cancel()
