from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from agentapi.egress import AddressPolicy, Egress, Resolver
from agentapi.errors import EgressRefusedError, UpstreamError, UpstreamTimeoutError
from support.upstreams import hanging_port
from unit.egress.doubles import FakeNames, TlsPair, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.egress.dialer import Destination
    from agentapi.egress.http1 import Http1Connection

LOOPBACK = AddressPolicy(allow_networks=(ip_network("127.0.0.0/8"),), allow_http=True)
CLOSED = AddressPolicy(allow_http=True)


class Network:
    """An event loop's way to connect, that notes the addresses and refuses them all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, accepts: Sequence[str] = ()) -> None:
        self.tried: list[str] = []
        loop = asyncio.get_running_loop()
        original = loop.create_connection

        async def create_connection(factory: object, host: str, port: int, **more: object) -> object:
            self.tried.append(host)
            if host not in accepts:
                raise ConnectionRefusedError
            return await original(factory, "127.0.0.1", port, **more)  # type: ignore[call-overload]

        monkeypatch.setattr(loop, "create_connection", create_connection)


async def connect(egress: Egress, url: str, *, timeout_s: float = 2.0) -> Http1Connection:
    return await egress.dialer.connect(egress.dialer.destination(url), timeout_s=timeout_s)


async def echo(_: str, __: dict[str, str], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def fetch(connection: Http1Connection) -> bytes:
    connection.send([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
    until = asyncio.get_running_loop().time() + 2
    while not connection.complete:
        assert await connection.wait(until)
    return connection.take()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "[::1]", "[fd00:ec2::254]", "[::ffff:127.0.0.1]"],
)
async def test_an_address_that_is_not_public_is_refused_before_a_socket_is_opened(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(monkeypatch)
    async with Egress(CLOSED) as egress:
        with pytest.raises(EgressRefusedError):
            await connect(egress, f"http://{address}:8080/mcp")
    assert not network.tried


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["2606:2800:220:1::1", "::1"]])
async def test_a_name_with_an_address_that_is_not_public_is_refused(
    answer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(monkeypatch)
    names = FakeNames()
    names.add("upstream.example", answer)
    async with Egress(CLOSED, resolver=Resolver(names)) as egress:
        with pytest.raises(EgressRefusedError, match=r"upstream\.example"):
            await connect(egress, "http://upstream.example:8080/mcp")
    assert not network.tried


async def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(monkeypatch, accepts=["93.184.216.34"])
    names = FakeNames()
    # Rebinding: a public address for the check, a private one for whoever asks again.
    names.add("upstream.example", [["93.184.216.34"], ["127.0.0.1"]])
    async with serve(echo) as server, Egress(CLOSED, resolver=Resolver(names, ttl_s=0)) as egress:
        connection = await connect(egress, f"http://upstream.example:{server.port}/mcp")
        assert await fetch(connection) == b"ok"
        assert network.tried == ["93.184.216.34"]
        assert names.asked == ["upstream.example"]
        with pytest.raises(EgressRefusedError):
            await connect(egress, f"http://upstream.example:{server.port}/mcp")
        assert network.tried == ["93.184.216.34"]
        connection.abort()


@pytest.mark.parametrize(
    "url", ["http://u:p@upstream.example/", "ftp://upstream.example/", "http://upstream.example:22/", "http://0x7f.1/"]
)
async def test_a_url_that_may_not_be_requested_is_no_destination(url: str) -> None:
    async with Egress(CLOSED) as egress:
        with pytest.raises(EgressRefusedError):
            egress.dialer.destination(url)


@pytest.mark.parametrize(
    ("url", "authority", "target", "port"),
    [
        ("https://upstream.example", b"upstream.example", b"/", 443),
        ("https://upstream.example:8443/a b?c=\r\nX: y#f", b"upstream.example:8443", None, 8443),
        ("http://[2606:2800:220:1::1]:81/x", b"[2606:2800:220:1::1]:81", b"/x", 81),
        ("https://b\u00fccher.example/\u00e4", b"xn--bcher-kva.example", b"/%C3%A4", 443),
    ],
)
async def test_a_destination_can_stand_in_a_request_as_it_is(
    url: str, authority: bytes, target: bytes | None, port: int
) -> None:
    async with Egress(CLOSED) as egress:
        try:
            destination: Destination = egress.dialer.destination(url)
        except EgressRefusedError:
            assert "\r" in url
            return
    assert (destination.authority, destination.port) == (authority, port)
    assert target is None or destination.target == target
    assert not set(b" \r\n\t") & set(destination.target + destination.authority)


async def test_another_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, accepts=["93.184.216.35"])
    names = FakeNames()
    names.add("upstream.example", ["93.184.216.34", "93.184.216.35"])
    async with serve(echo) as server, Egress(CLOSED, resolver=Resolver(names)) as egress:
        connection = await connect(egress, f"http://upstream.example:{server.port}/mcp")
        assert await fetch(connection) == b"ok"
        connection.abort()
    assert network.tried == ["93.184.216.34", "93.184.216.35"]


async def test_tls_verifies_the_name_and_not_the_address(tls: TlsPair) -> None:
    names = FakeNames(upstream_example=["127.0.0.1"], other_example=["127.0.0.1"])
    async with (
        serve(echo, context=tls.server) as server,
        Egress(LOOPBACK, resolver=Resolver(names), ssl_context=tls.client) as egress,
    ):
        connection = await connect(egress, f"https://upstream.example:{server.port}/")
        assert await fetch(connection) == b"ok"
        connection.abort()
        with pytest.raises(UpstreamError, match="the TLS handshake failed"):
            await connect(egress, f"https://other.example:{server.port}/")


async def test_connecting_is_bounded_in_time() -> None:
    # The kernel accepts; the handshake of TLS is never answered.
    with hanging_port() as silent:
        async with Egress(LOOPBACK) as egress:
            with pytest.raises(UpstreamTimeoutError):
                await connect(egress, f"https://127.0.0.1:{silent.port}/", timeout_s=0.05)


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with serve(echo) as server, Egress(LOOPBACK) as egress:
        connection = await connect(egress, f"http://127.0.0.1:{server.port}/")
        assert await fetch(connection) == b"ok"
        connection.abort()
