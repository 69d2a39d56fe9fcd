"""What a web page of somebody else could have a browser send to the gateway, and its refusal.

Sources: specification 2026-07-28, "Streamable HTTP", "Security Warning" (DNS rebinding); RFC 6454 (origins).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from agentapi.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BrowserGuard"]


class BrowserGuard:
    """Refuses foreign origins, and names that somebody else's DNS may have pointed here.

    Args:
        public_url: The gateway's own address.
        origins: Other origins that may call.
        hosts: Other names, without ports, under which the gateway is reached.
        allow_loopback: Whether every name of loopback is the gateway's own, as during development.
    """

    def __init__(
        self, public_url: str, *, origins: Iterable[str] = (), hosts: Iterable[str] = (), allow_loopback: bool = False
    ) -> None:
        self._own = urlsplit(public_url)
        self._origins = frozenset({f"{self._own.scheme}://{self._own.netloc}", *origins})
        self._hosts = frozenset({self._own.hostname or "", *(host.lower() for host in hosts)})
        self._allow_loopback = allow_loopback
        self._last_host: str | None = None

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Refuse a request by its ASGI ``headers``.

        Raises:
            ForbiddenError: It comes from a foreign page, or for a foreign name.
        """
        hosts, origins = [], []
        for name, value in headers:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"origin":
                origins.append(value.decode("latin-1"))
        # Of several, each reader could take another.
        if len(hosts) != 1 or not self._is_own_host(hosts[0]):
            raise ForbiddenError("The gateway does not go by this name.", host=", ".join(hosts)[:200])
        if not all(self._is_own_origin(origin) for origin in origins):
            raise ForbiddenError("This origin may not call the gateway.", origin=", ".join(origins)[:200])

    def _is_own_host(self, host: str) -> bool:
        # Nearly all requests name the gateway as the last one did; reading that again costs more than the token check.
        if host == self._last_host:
            return True
        parts = _split(f"//{host}")
        if parts is None or parts.hostname is None or parts.path or parts.username is not None:
            return False
        if parts.hostname in self._hosts or (self._allow_loopback and _is_loopback(parts.hostname)):
            self._last_host = host
            return True
        return False

    def _is_own_origin(self, origin: str) -> bool:
        if origin in self._origins:
            return True
        parts = _split(origin) if self._allow_loopback else None
        if parts is None or parts.hostname is None or not _is_loopback(parts.hostname):
            return False
        # Another port of this machine is another application.
        return (parts.scheme, parts.port) == (self._own.scheme, self._own.port)


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - it raises what a bad port is
    except ValueError:
        return None
    return parts


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
