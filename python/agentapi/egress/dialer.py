"""Connections of our own making to addresses that the guard has checked.

The invariants are those of ``transport``: the URL passes the policy, every address of the name does, a socket is
opened to one of those very addresses, and TLS verifies the name.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentapi.egress.http1 import Http1Connection
from agentapi.egress.transport import first_connected
from agentapi.errors import UpstreamError, UpstreamTimeoutError

if TYPE_CHECKING:
    from agentapi.egress.addresses import AddressPolicy, IPAddress
    from agentapi.egress.transport import GuardedBackend

__all__ = ["Destination", "Dialer"]


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL that may be requested, taken apart as a request needs it."""

    host: str
    port: int
    tls: bool
    authority: bytes
    """The value of the Host header."""
    target: bytes
    """Path and query, percent-encoded."""


class Dialer:
    """Connects to destinations.

    Args:
        policy: Which URLs may be requested.
        backend: Resolves names and checks their addresses.
        ssl_context: The one of the process.
        stagger_s: How long one address may take until the next is tried beside it.
    """

    def __init__(
        self, policy: AddressPolicy, backend: GuardedBackend, *, ssl_context: ssl.SSLContext, stagger_s: float = 0.25
    ) -> None:
        self._policy = policy
        self._backend = backend
        self._ssl_context = ssl_context
        self._stagger_s = stagger_s

    def destination(self, url: str) -> Destination:
        """Take ``url`` apart.

        Raises:
            EgressRefusedError: It may not be requested.
        """
        parsed = self._policy.check_url(url)
        tls = parsed.scheme == "https"
        return Destination(
            host=parsed.raw_host.decode("ascii"),
            port=parsed.port or (443 if tls else 80),
            tls=tls,
            authority=parsed.netloc,
            target=parsed.raw_path,
        )

    async def connect(self, destination: Destination, *, timeout_s: float) -> Http1Connection:
        """Return a connection to a checked address of ``destination``.

        Raises:
            EgressRefusedError: An address of the name may not be reached.
            UpstreamError: The name does not resolve, no address accepts, or TLS fails.
            UpstreamTimeoutError: All that took longer than ``timeout_s``.
        """
        loop = asyncio.get_running_loop()

        async def connect(address: IPAddress) -> Http1Connection:
            _, connection = await loop.create_connection(
                Http1Connection,
                str(address),
                destination.port,
                ssl=self._ssl_context if destination.tls else None,
                server_hostname=destination.host if destination.tls else None,
            )
            return connection

        try:
            async with asyncio.timeout(timeout_s):
                return await first_connected(
                    await self._backend.checked(destination.host),
                    connect,
                    close=_close,
                    errors=(OSError,),
                    stagger_s=self._stagger_s,
                )
        except TimeoutError as error:
            raise UpstreamTimeoutError("it did not answer in time") from error
        except ssl.SSLError as error:
            raise UpstreamError(f"the TLS handshake failed ({error.reason or 'TLS error'})") from error
        except OSError as error:
            raise UpstreamError("the connection was refused", reason=str(error)) from error


async def _close(connection: Http1Connection) -> None:
    connection.abort()
