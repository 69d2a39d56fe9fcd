"""Where a request came from, behind proxies that are trusted to say so and behind nobody else.

``X-Forwarded-For`` is read from its right end, which the nearest proxy wrote. Each entry is believed because the one
to the right of it is a trusted proxy's address; the first that is not one is the client. What stands further to the
left may be anybody's invention.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Network

    from starlette.types import Scope

__all__ = ["ClientAddresses"]

_HEADER: Final = b"x-forwarded-for"
_MAX_HOPS: Final = 16
_PREFIX_BYTES: Final = 8


class ClientAddresses:
    """Tells where requests came from.

    Args:
        trusted: Networks of the proxies in front; without any the peer is the client.
    """

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, scope: Scope) -> str | None:
        """Return the address that stands for the client of a request, or None where there is none (a local socket).

        That of IPv6 is its network of 64 bits, of which whoever has one address has all.
        """
        peer = scope.get("client")
        address = None if peer is None else _parsed(peer[0])
        if address is None:
            return None
        if self._trusted and self._is_trusted(address):
            entries = b",".join(value for name, value in scope["headers"] if name == _HEADER)
            for entry in reversed(entries.rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]):
                said = _parsed(_without_port(entry.strip().decode("latin-1")))
                if said is None:
                    # What a proxy could not name is the proxy's.
                    break
                address = said
                if not self._is_trusted(address):
                    break
        return _counted_as(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _without_port(entry: str) -> str:
    """Return an address without the port that some proxies write behind it."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _counted_as(address: IPv4Address | IPv6Address) -> str:
    return address.packed[:_PREFIX_BYTES].hex() if isinstance(address, IPv6Address) else str(address)
