"""Where a request came from; whoever can choose what the gateway believes escapes the limit of its address."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from agentapi.limits.client_address import ClientAddresses

PROXIES = ClientAddresses([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def address(peer: str | None, *forwarded: str, addresses: ClientAddresses = PROXIES) -> str | None:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return addresses.of({"type": "http", "client": None if peer is None else (peer, 1234), "headers": headers})


def test_without_trusted_proxies_nothing_that_is_said_counts() -> None:
    assert address("10.0.0.1", "203.0.113.9", addresses=ClientAddresses()) == "10.0.0.1"


def test_a_peer_that_is_no_proxy_says_nothing() -> None:
    assert address("198.51.100.7", "203.0.113.9") == "198.51.100.7"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (("203.0.113.9",), "203.0.113.9"),
        # What the client invents stands to the left of what the proxy saw.
        (("1.1.1.1, 203.0.113.9",), "203.0.113.9"),
        (("1.1.1.1, 10.9.9.9, 203.0.113.9",), "203.0.113.9"),
        # Through several proxies.
        (("1.1.1.1, 203.0.113.9, 10.1.1.1, 10.2.2.2",), "203.0.113.9"),
        (("1.1.1.1", "203.0.113.9", "10.2.2.2"), "203.0.113.9"),
        # Some write a port.
        (("203.0.113.9:4711",), "203.0.113.9"),
        (("[2001:db8::1]:4711",), "20010db800000000"),
        # All of them are proxies: the one furthest away.
        (("10.1.1.1, 10.2.2.2",), "10.1.1.1"),
        # What no address is was not written by a proxy that knows one; nothing to its left counts.
        (("203.0.113.9, unknown, 10.2.2.2",), "10.2.2.2"),
        (("203.0.113.9, ",), "10.0.0.1"),
        (("",), "10.0.0.1"),
        ((), "10.0.0.1"),
        (("\xff\x00",), "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_who_came_before_it(forwarded: tuple[str, ...], client: str) -> None:
    assert address("10.0.0.1", *forwarded) == client


def test_only_so_many_hops_are_followed() -> None:
    chain = ", ".join(["203.0.113.9", *["10.2.2.2"] * 1000])
    assert address("10.0.0.1", chain) == "10.2.2.2"


def test_a_network_of_ipv6_counts_as_one_and_ipv4_is_ipv4_however_it_is_written() -> None:
    one, other = address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9")
    assert one == other != address("2001:db8:1:3::1")
    assert address("::ffff:198.51.100.7") == "198.51.100.7"
    assert address("::ffff:10.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert address("fd00::1", "203.0.113.9") == "203.0.113.9"
    assert address("fe80::1%eth0") == "fe80000000000000"


@pytest.mark.parametrize("peer", [None, "", "testclient"])
def test_a_local_socket_has_no_address(peer: str | None) -> None:
    assert address(peer, "203.0.113.9") is None
