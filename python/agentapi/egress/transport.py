"""The guarded road from an HTTP request to a socket.

Invariants:

* Every request URL passes the policy, whoever built the request (a caller, a redirect, an authentication
  flow).
* Every address that a name resolves to passes the policy; one forbidden address refuses the name.
* A socket is opened to an address of that same answer, never to the name, so nothing is resolved a second
  time.
* TLS still verifies the name: the pool passes the name, not the address, as ``server_hostname``.
* There is no proxy and nothing is taken from the proxy variables of the environment.
* A response body is never decompressed, and one that is not an event stream is bounded.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final, Self, TypeVar

import anyio
import httpcore2
import httpx2

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from types import TracebackType

    from agentapi.egress.addresses import AddressPolicy, IPAddress
    from agentapi.egress.resolver import Resolver

__all__ = [
    "BoundedStream",
    "GuardedBackend",
    "GuardedTransport",
    "PooledTransport",
    "ResponseTooLargeError",
    "first_connected",
]

_MAX_ATTEMPTS: Final = 6
_EVENT_STREAM: Final = "text/event-stream"
_Connected = TypeVar("_Connected")


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """A network backend that resolves, checks and only then connects."""

    def __init__(
        self,
        policy: AddressPolicy,
        resolver: Resolver,
        *,
        inner: httpcore2.AsyncNetworkBackend | None = None,
        stagger_s: float = 0.25,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._inner = inner or httpcore2.AnyIOBackend()
        self._stagger_s = stagger_s

    async def checked(self, host: str) -> tuple[IPAddress, ...]:
        """Return the addresses of ``host``, all of which may be reached.

        Raises:
            EgressRefusedError: One of them may not.
            UpstreamError: The name does not resolve.
        """
        addresses = await self._resolver.resolve(host)
        for address in addresses:
            self._policy.check(address, host=None if str(address) == host else host)
        return addresses

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore2's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to one of the checked addresses of ``host`` (RFC 8305 without the sorting).

        Raises:
            EgressRefusedError: An address of the name may not be reached.
            UpstreamError: The name does not resolve.
            httpcore2.ConnectError: No address accepts a connection.
            httpcore2.ConnectTimeout: None did in time.
        """
        options = tuple(socket_options or ())

        async def connect(address: IPAddress) -> httpcore2.AsyncNetworkStream:
            return await self._inner.connect_tcp(
                str(address), port, timeout=timeout, local_address=local_address, socket_options=options
            )

        try:
            with anyio.fail_after(timeout):
                return await first_connected(
                    await self.checked(host),
                    connect,
                    close=lambda stream: stream.aclose(),
                    errors=(httpcore2.ConnectError, httpcore2.ConnectTimeout),
                    stagger_s=self._stagger_s,
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error


def _interleaved(addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
    """Alternate the families, beginning with that of the first address (RFC 8305, section 4)."""
    first_is_v6 = isinstance(addresses[0], IPv6Address)
    first = [address for address in addresses if isinstance(address, IPv6Address) == first_is_v6]
    second = [address for address in addresses if isinstance(address, IPv6Address) != first_is_v6]
    ranked = [(rank, 0, address) for rank, address in enumerate(first)]
    ranked += [(rank, 1, address) for rank, address in enumerate(second)]
    return tuple(address for _, _, address in sorted(ranked, key=lambda item: item[:2]))


async def first_connected(
    addresses: tuple[IPAddress, ...],
    connect: Callable[[IPAddress], Awaitable[_Connected]],
    *,
    close: Callable[[_Connected], Awaitable[None]],
    errors: tuple[type[Exception], ...],
    stagger_s: float,
) -> _Connected:
    """Return the first connection that stands; start the next attempt when one fails or dawdles (RFC 8305).

    Args:
        addresses: Checked ones; the first few are tried, the families in turn.
        connect: Opens a connection, or raises one of ``errors``.
        close: Ends one that came too late.
        errors: What a failed attempt raises.
        stagger_s: How long an attempt may take until the next begins.
    """
    candidates = _interleaved(addresses)[:_MAX_ATTEMPTS]
    if len(candidates) == 1:
        return await connect(candidates[0])
    won: list[_Connected] = []
    failures: list[Exception] = []

    async def attempt(address: IPAddress, ended: anyio.Event, scope: anyio.CancelScope) -> None:
        try:
            stream = await connect(address)
        except errors as error:
            failures.append(error)
            ended.set()
            return
        if won:
            await close(stream)
            return
        won.append(stream)
        scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for address in candidates:
                ended = anyio.Event()
                group.start_soon(attempt, address, ended, group.cancel_scope)
                with anyio.move_on_after(stagger_s):
                    await ended.wait()
    except BaseException:
        with anyio.CancelScope(shield=True):
            for stream in won:
                await close(stream)
        raise
    if won:
        return won[0]
    raise failures[-1]


class PooledTransport(httpx2.AsyncHTTPTransport):
    """httpx2's own transport over a pool whose sockets come from ``backend``.

    ``AsyncHTTPTransport.__init__`` takes no network backend. It does nothing but build ``_pool``, so this
    class builds it instead, out of public parts of httpcore2; requests, streams and the mapping of errors
    stay the library's. Should the attribute be renamed, every request fails with AttributeError: it cannot
    fall back to an open pool.
    """

    def __init__(self, backend: GuardedBackend, *, ssl_context: ssl.SSLContext, max_connections: int) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=max(1, max_connections // 2),
            keepalive_expiry=30.0,
            network_backend=backend,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send ``request``; a connection on which more came than the answer carries no other request.

        httpcore2 keeps what came too much, and would take it for the answer to the next request on the connection,
        which may be another user's.
        """
        response = await super().handle_async_request(request)
        connection = self._carrying(response.extensions.get("network_stream"))
        if connection is not None and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _OneAnswer(response.stream, connection)
        return response

    def _carrying(self, network_stream: object) -> httpcore2.AsyncHTTP11Connection | None:
        for pooled in self._pool.connections:
            connection = getattr(pooled, "_connection", None)
            if (
                isinstance(connection, httpcore2.AsyncHTTP11Connection) and connection._network_stream is network_stream  # noqa: SLF001 - nothing public tells them apart
            ):
                return connection
        return None

    async def close_idle(self) -> None:
        """Close what has idled for too long, and what its server has closed: by itself the pool looks when it is used.

        The pool goes on listing what is closed here until then, which holds nothing.
        """
        for connection in self._pool.connections:
            if connection.is_idle() and connection.has_expired():
                await connection.aclose()


class _OneAnswer(httpx2.AsyncByteStream):
    """A body whose connection is closed with it if more has come than the answer."""

    def __init__(self, inner: httpx2.AsyncByteStream, connection: httpcore2.AsyncHTTP11Connection) -> None:
        self._inner = inner
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk

    async def aclose(self) -> None:
        surplus, _ = self._connection._h11_state.trailing_data  # noqa: SLF001 - nothing public tells of it
        if surplus:
            # The pool gives up what is closed; afterwards it would be too late, for somebody may wait for a place.
            await self._connection._network_stream.aclose()  # noqa: SLF001 - the pool's own bookkeeping goes on
        await self._inner.aclose()


class ResponseTooLargeError(httpx2.StreamError):
    """A response body grew past the bound."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the response is larger than {limit} bytes")


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Check every request and bound every response of the one shared pool.

    Clients come and go over it: opening or closing it does nothing, since the pool belongs to ``Egress``.
    """

    def __init__(self, pool: httpx2.AsyncBaseTransport, policy: AddressPolicy, *, max_response_bytes: int) -> None:
        self._inner = pool
        self._policy = policy
        self._max_response_bytes = max_response_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send ``request`` if its URL may be requested.

        Raises:
            EgressRefusedError: The URL, or an address of its host, may not be reached.
            UpstreamError: The host does not resolve.
            httpx2.RemoteProtocolError: The response is compressed although ``identity`` was asked for.
            ResponseTooLargeError: While the body is read, once it is past the bound.
        """
        request.url = self._policy.check_url(request.url)
        request.headers["accept-encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
            await response.aclose()
            raise httpx2.RemoteProtocolError("the response is compressed, which was not asked for", request=request)
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() == _EVENT_STREAM:
            return response
        stream = response.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            raise TypeError("the pool answered with a stream that is not asynchronous")
        return httpx2.Response(
            status_code=response.status_code,
            headers=response.headers,
            stream=BoundedStream(stream, self._max_response_bytes),
            extensions=response.extensions,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        return None

    async def aclose(self) -> None:
        """Do nothing; ``Egress`` closes the pool."""


class BoundedStream(httpx2.AsyncByteStream):
    """A body that ends with ``ResponseTooLargeError`` once it is past ``limit`` bytes."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self._inner:
            seen += len(chunk)
            if seen > self._limit:
                raise ResponseTooLargeError(self._limit)
            yield chunk

    async def aclose(self) -> None:
        """Close the body below."""
        await self._inner.aclose()
