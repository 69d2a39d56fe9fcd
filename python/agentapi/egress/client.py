"""One TLS context and one DNS cache per process, behind the address guard, and two pools of connections.

One pool is for the calls to upstreams. The other is for what everybody needs whatever becomes of those: key sets,
and authorization servers.

Building a TLS context per request costs about 16 ms, so there is one for the life of the process; clients
are cheap views on a pool, each with its own headers and cookie jar.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final, Self

import anyio
import httpcore2
import httpx2
import structlog

from agentapi.egress.addresses import AddressPolicy
from agentapi.egress.dialer import Dialer
from agentapi.egress.resolver import Resolver
from agentapi.egress.transport import GuardedBackend, GuardedTransport, PooledTransport
from agentapi.errors import EgressRefusedError, UpstreamError, UpstreamTimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from agentapi.settings import Settings

__all__ = ["Egress", "default_tls_context"]

_log = structlog.get_logger(__name__)

_MAX_REDIRECTS: Final = 3
_MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024
_SPARE_CONNECTIONS: Final = 64
_RESERVED_CONNECTIONS: Final = 64
"""For what is no call to an upstream."""
_READ_TIMEOUT_S: Final = 300.0
_REAP_S: Final = 2.0
"""How long a connection that its server has closed may hold a socket."""


def default_tls_context() -> ssl.SSLContext:
    """Return a context that verifies chain and name against the system's authorities, from TLS 1.2 on."""
    context = httpcore2.default_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Egress:
    """Every outgoing HTTP request of the process.

    Belongs to the event loop it is opened on::

        async with Egress.from_settings(settings) as egress:
            keys = await egress.get_bytes(url, max_bytes=65_536)
            async with sse_client(url, httpx_client_factory=egress.client) as streams: ...
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        timeout_s: float = 10.0,
        max_connections: int = 500,
        max_response_bytes: int = _MAX_RESPONSE_BYTES,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        """Build the shared parts; nothing is opened yet.

        Args:
            policy: What may be reached.
            timeout_s: Default bound on connecting, writing and waiting for the pool, and on the whole of
                ``get_bytes``.
            max_connections: Bound on open sockets to upstreams; there are some more for all else.
            max_response_bytes: Bound on any body that is not an event stream.
            resolver: Names to addresses; by default the system's, cached.
            ssl_context: How servers are verified; by default ``default_tls_context()``.
            network: What opens the sockets, below the guard.
        """
        self.policy = policy
        self._timeout_s = timeout_s
        self._resolver = resolver or Resolver(timeout_s=min(timeout_s, 5.0))
        self._backend = GuardedBackend(policy, self._resolver, inner=network)
        context = ssl_context or default_tls_context()
        context.set_alpn_protocols(["http/1.1"])
        self._own, self._upstreams = (
            PooledTransport(self._backend, ssl_context=context, max_connections=bound)
            for bound in (_RESERVED_CONNECTIONS, max_connections)
        )
        self._pools = (self._own, self._upstreams)
        self._reaper: asyncio.Task[None] | None = None
        self.dialer = Dialer(policy, self._backend, ssl_context=context)
        self.max_response_bytes = max_response_bytes
        self.transport = GuardedTransport(self._own, policy, max_response_bytes=max_response_bytes)
        self.to_upstreams = GuardedTransport(self._upstreams, policy, max_response_bytes=max_response_bytes)
        """For the calls to upstreams, which may be many and long."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build from the ``egress_*`` settings, ``upstream_max_connections`` and ``upstream_message_mb``."""
        return cls(
            AddressPolicy(allow_networks=settings.egress_allow_networks, allow_http=settings.egress_allow_http),
            timeout_s=settings.egress_timeout_s,
            # A connection of the older revisions holds one socket for its stream and needs another for each call;
            # connection tests need some besides.
            max_connections=settings.upstream_max_connections * 2 + _SPARE_CONNECTIONS,
            max_response_bytes=settings.upstream_message_mb * 1024 * 1024,
        )

    async def __aenter__(self) -> Self:
        for pool in self._pools:
            await pool.__aenter__()
        self._reaper = asyncio.create_task(self._reap())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        await self._resolver.aclose()
        for pool in self._pools:
            await pool.__aexit__(exc_type, exc_value, traceback)

    def client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> httpx2.AsyncClient:
        """Return a client of the pool that is not for upstreams; closing it closes nothing but itself.

        The signature is that of ``mcp``'s ``McpHttpClientFactory``, so the bound method serves as
        ``sse_client(httpx_client_factory=...)`` and its result as
        ``streamable_http_client(http_client=...)``. Redirects are not followed, the environment is not
        read, bodies come uncompressed. Reading may pause for five minutes by default, since a server may
        hold a stream open. A ``transport`` of the caller's stands before ``self.transport``, or before
        ``self.to_upstreams`` where that is what it calls.
        """
        return httpx2.AsyncClient(
            headers=headers,
            timeout=timeout or httpx2.Timeout(self._timeout_s, read=_READ_TIMEOUT_S),
            auth=auth,
            transport=transport or self.transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def check(self, url: str) -> None:
        """Refuse a URL that could not be requested now: its syntax, then every address of its host.

        Nothing is connected to. A later request is checked again. This is for saying so while the URL is
        being typed in, and ahead of the ``mcp`` client, which reports a failed connection as its own.

        Raises:
            EgressRefusedError: The URL, or an address of its host, may not be reached.
            UpstreamError: The host does not resolve.
        """
        parsed = self.policy.check_url(url)
        await self._backend.checked(parsed.raw_host.decode("ascii"))

    async def get_bytes(
        self,
        url: str,
        *,
        max_bytes: int,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Fetch a small document, following at most three redirects and checking each.

        Args:
            url: Where it is.
            max_bytes: Bound on the body, enforced while it arrives.
            timeout_s: Bound on the whole, redirects included; by default the egress timeout.
            headers: Sent to the first origin and to no other.

        Raises:
            EgressRefusedError: The URL, a redirect, or an address may not be reached.
            UpstreamTimeoutError: The whole took too long.
            UpstreamError: The server cannot be reached, answers with an error, or with too much.
        """
        try:
            with anyio.fail_after(self._timeout_s if timeout_s is None else timeout_s):
                return await self._get(self.policy.check_url(url), max_bytes, dict(headers or {}))
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise UpstreamTimeoutError("The server did not answer in time.", url_host=_host(url)) from error
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise UpstreamError(
                "The server could not be reached or its answer could not be read.",
                url_host=_host(url),
                reason=f"{type(error).__name__}: {error}",
            ) from error

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(_REAP_S)
            for pool in self._pools:
                try:
                    await pool.close_idle()
                except Exception:  # noqa: BLE001 - a socket that does not close well must not keep the others open
                    _log.exception("idle_connection_not_closed")

    async def _get(self, url: httpx2.URL, max_bytes: int, headers: dict[str, str]) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            # A client for each hop: cookies of one server are never kept, let alone sent to another.
            async with self.client() as client, client.stream("GET", url, headers=headers) as response:
                if response.next_request is None:
                    return await _body(response, max_bytes)
                target = response.next_request.url
            if url.scheme == "https" and target.scheme != "https":
                raise EgressRefusedError("The server redirects from https to an address that is not https.")
            target = self.policy.check_url(target)
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() == "accept"}
            url = target
        raise UpstreamError(f"The server redirects more than {_MAX_REDIRECTS} times.", url_host=url.host)


async def _body(response: httpx2.Response, max_bytes: int) -> bytes:
    if not response.is_success:
        raise UpstreamError(
            f"The server answered with status {response.status_code}.",
            status=response.status_code,
            url_host=response.url.host,
        )
    announced = response.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes, response)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes, response)
    return bytes(body)


def _too_large(max_bytes: int, response: httpx2.Response) -> UpstreamError:
    return UpstreamError(f"The server's answer is larger than {max_bytes} bytes.", url_host=response.url.host)


def _origin(url: httpx2.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _host(url: str) -> str:
    return httpx2.URL(url).raw_host.decode("ascii")
