"""A loopback proxy that adds an Authorization header to every request and changes nothing else."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["bearer_proxy"]

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\s*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_PIECE = 65_536


async def _requests(client: asyncio.StreamReader, server: asyncio.StreamWriter, header: bytes) -> None:
    """Pass on requests until the client closes, each with ``header`` after its first line."""
    while True:
        try:
            head = await client.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        assert not _CHUNKED.search(head), "this proxy passes on bodies of a stated length only"
        line, _, rest = head.partition(b"\r\n")
        found = _LENGTH.search(head)
        body = await client.readexactly(int(found[1])) if found else b""
        server.write(line + b"\r\n" + header + rest + body)
        await server.drain()


async def _answers(server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    while piece := await server.read(_PIECE):
        client.write(piece)
        await client.drain()


@asynccontextmanager
async def bearer_proxy(target_port: int, token: str, port: int = 0) -> AsyncIterator[int]:
    """Listen on ``port`` of loopback, or a free one, and pass all on to ``target_port``; yield the port.

    Bytes of an answer are passed on as they come; when either side closes, so does the other.
    """
    header = f"Authorization: Bearer {token}\r\n".encode()
    connections: set[asyncio.Task[None]] = set()

    async def connected(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(pass_on(client_reader, client_writer))
        connections.add(task)
        task.add_done_callback(connections.discard)
        task.add_done_callback(lambda _: client_writer.close())

    async def pass_on(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target_port)
        directions = [
            asyncio.ensure_future(_requests(client_reader, server_writer, header)),
            asyncio.ensure_future(_answers(server_reader, client_writer)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            for outcome in await asyncio.gather(*directions, return_exceptions=True):
                assert not isinstance(outcome, AssertionError), outcome
            server_writer.transport.abort()

    listener = await asyncio.start_server(connected, "127.0.0.1", port)
    async with listener:
        try:
            yield int(listener.sockets[0].getsockname()[1])
        finally:
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
