"""Fakes below the guard, and a real loopback server above it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpcore2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    import ssl

    from cryptography.hazmat.primitives.asymmetric import ec


class FakeNames:
    """Answers of a name server: per name a list of answers, the last of which stays."""

    def __init__(self, **answers: Sequence[str] | Sequence[Sequence[str]]) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        for name, answer in answers.items():
            self.add(name.replace("_", "."), answer)

    def add(self, name: str, answer: Sequence[str] | Sequence[Sequence[str]]) -> None:
        flat = [part for part in answer if isinstance(part, str)]
        self.answers[name] = [flat] if flat else [list(part) for part in answer]

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError(-2, "Name or service not known")
        turns = self.answers[host]
        return turns.pop(0) if len(turns) > 1 else turns[0]


class FakeNetwork(httpcore2.AsyncNetworkBackend):
    """Records where a socket would be opened and answers with canned bytes per address."""

    def __init__(self, replies: dict[str, list[bytes]] | None = None) -> None:
        self.connected: list[tuple[str, int]] = []
        self.replies = replies or {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the signature is httpcore2's
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        self.connected.append((host, port))
        if host not in self.replies:
            raise httpcore2.ConnectError("refused")
        return httpcore2.AsyncMockStream(list(self.replies[host]))


Handler = Callable[[str, dict[str, str], asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RealServer:
    """A server of this test on loopback; ``requests`` are the request lines and headers it saw."""

    port: int
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def serve(handler: Handler, *, context: ssl.SSLContext | None = None) -> AsyncIterator[RealServer]:
    state = RealServer(0)
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        state.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                state.requests.append((head[0], headers))
                await handler(head[0].split(" ")[1], headers, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class TlsPair:
    """A server context for ``names`` and a client context that trusts its authority alone."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, ca: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
