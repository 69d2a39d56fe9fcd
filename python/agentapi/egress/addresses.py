"""Which addresses and URLs the process may connect to. Pure: no lookups, no sockets.

Invariants:

* An address is allowed only if it is globally routable unicast, or lies in a network that the operator
  listed.
* An IPv6 address that carries an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64, ISATAP) is as good
  as what it carries.
* A metadata address of a cloud is allowed only if it is listed by itself (``/32`` or ``/128``), so that
  allowing ``10.0.0.0/8``, ``fd00::/8`` or even ``0.0.0.0/0`` never hands out the instance's credentials.
* A URL is read by the parser of the HTTP client that will use it, so that both see the same host.

Sources: IANA special-purpose address registries (RFC 6890 and updates), RFC 4291, 3056, 4380, 6052, 8215,
5214; WHATWG URL, "ends in a number"; WHATWG Fetch, "port blocking".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

import httpx2
import idna

from agentapi.errors import EgressRefusedError

__all__ = ["AddressPolicy", "IPAddress", "IPNetwork"]

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_METADATA: Final = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, GCP, OCI, DigitalOcean and most others
        "169.254.169.253",  # AWS resolver
        "169.254.169.123",  # AWS time
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.0.23",  # Tencent
        "168.63.129.16",  # Azure platform, in a public range
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # OCI, classic
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::253",
        "fd00:ec2::23",
        "fd20:ce::254",  # GCP over IPv6
        "fd00:c1::a9fe:a9fe",  # OCI over IPv6
    )
)

_REFUSED_V4: Final = tuple(
    (IPv4Network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)

_GLOBAL_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    (IPv6Network(text), reason)
    for text, reason in (
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
    )
)

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)

_BLOCKED_PORTS: Final = frozenset(
    {0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42}
    | {43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111, 113, 115}
    | {117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515}
    | {526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995}
    | {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669}
    | {6679, 6697, 10080}
)
_MAX_PORT: Final = 65_535
_MAX_HOST: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_NETWORKS_SETTING: Final = "AGENTAPI_EGRESS_ALLOW_NETWORKS"
_HTTP_SETTING: Final = "AGENTAPI_EGRESS_ALLOW_HTTP"


def _carried(ip: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that a transition mechanism would take out of ``ip``."""
    number = int(ip)
    low = IPv4Address(number & 0xFFFF_FFFF)
    if ip in _MAPPED or ip in _NAT64:
        return (low,)
    if ip in _COMPATIBLE and number > 1:
        return (low,)
    if ip.sixtofour is not None:
        return (ip.sixtofour,)
    if ip.teredo is not None:
        return ip.teredo
    if (number >> 32) & 0xFFFF_FFFF in _ISATAP and ip in _GLOBAL_V6:
        return (low,)
    return ()


def _refusal(ip: IPAddress) -> str | None:
    """Return why ``ip`` is not globally routable unicast, or None."""
    if isinstance(ip, IPv4Address):
        return next((reason for network, reason in _REFUSED_V4 if ip in network), None)
    if ip not in _GLOBAL_V6:
        return "not global unicast"
    return next((reason for network, reason in _REFUSED_V6 if ip in network), None)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What the operator allows beyond the public internet over https."""

    allow_networks: tuple[IPNetwork, ...] = ()
    """Ranges that may be reached although they are not public."""
    allow_http: bool = False
    """Whether ``http`` URLs are accepted."""

    def check(self, ip: IPAddress, *, host: str | None = None) -> None:
        """Refuse an address that is neither public nor allowed.

        Args:
            ip: The address about to be connected to.
            host: The name that resolved to it. With a name the message does not say which address or kind
                of address it was, since the tenant may not learn the inside of the network; the log context
                does.

        Raises:
            EgressRefusedError: The address may not be reached.
        """
        reason = self._reason(ip)
        if reason is None:
            return
        if host is None:
            message = f"The address {ip} is {reason} and may not be reached"
        else:
            message = f"The host {host!r} resolves to an address that may not be reached"
        raise EgressRefusedError(
            f"{message}; only {_NETWORKS_SETTING} can allow it.", address=str(ip), reason=reason, host=host
        )

    def check_url(self, url: str | httpx2.URL) -> httpx2.URL:
        """Refuse a URL whose scheme, host or port may not be used; return it as the client reads it.

        A host that is an address literal is checked at once; a name is checked when it is resolved.

        Raises:
            EgressRefusedError: The URL may not be requested.
        """
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError, TypeError) as error:
            raise EgressRefusedError("The URL is not valid.", reason=str(error)) from error
        if parsed.scheme != "https" and not (parsed.scheme == "http" and self.allow_http):
            if parsed.scheme == "http":
                raise EgressRefusedError(f"The URL must be https; only {_HTTP_SETTING} allows http.")
            raise EgressRefusedError("The URL must be absolute and start with https://.")
        if parsed.userinfo:
            raise EgressRefusedError("The URL must not contain a user name or password; store a credential instead.")
        port = parsed.port
        if port is not None and (port in _BLOCKED_PORTS or not 0 < port <= _MAX_PORT):
            raise EgressRefusedError(f"The port {port} of the URL may not be used.")
        self._check_host(parsed.raw_host.decode("ascii"))
        return parsed

    def _check_host(self, host: str) -> None:
        if not host:
            raise EgressRefusedError("The URL has no host.")
        try:
            literal = ip_address(host)
        except ValueError:
            _check_name(host)
        else:
            if isinstance(literal, IPv6Address) and literal.scope_id is not None:
                raise EgressRefusedError("The host of the URL is an address with a zone, which may not be used.")
            self.check(literal)

    def _reason(self, ip: IPAddress) -> str | None:
        carried = _carried(ip) if isinstance(ip, IPv6Address) else ()
        if any(self._is_closed_metadata(part) for part in (ip, *carried)):
            return "a metadata address"
        if self._is_allowed(ip):
            return None
        reasons = (None if self._is_allowed(part) else _refusal(part) for part in carried or (ip,))
        return next((reason for reason in reasons if reason is not None), None)

    def _is_allowed(self, ip: IPAddress) -> bool:
        return any(ip in network for network in self.allow_networks)

    def _is_closed_metadata(self, ip: IPAddress) -> bool:
        return ip in _METADATA and ip_network(ip) not in self.allow_networks


def _check_name(host: str) -> None:
    """Refuse what is not a plain DNS name, above all number forms that the C library reads as an address."""
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise EgressRefusedError("The host of the URL is not a valid name.", host=host)
    if _NUMBER.fullmatch(labels[-1]):
        raise EgressRefusedError("The host of the URL is a number that is not an address in its usual form.", host=host)
    if any(label.startswith("xn--") for label in labels):
        try:
            idna.decode(name)
        except UnicodeError as error:
            raise EgressRefusedError("The host of the URL is not a valid international name.", host=host) from error
