from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import anyio
import httpcore2
import httpx2
import pytest

from agentapi.egress.addresses import AddressPolicy
from agentapi.egress.resolver import Resolver
from agentapi.egress.transport import GuardedBackend
from agentapi.errors import EgressRefusedError
from unit.egress.doubles import FakeNames, FakeNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def backend(names: FakeNames, network: httpcore2.AsyncNetworkBackend, **options: float) -> GuardedBackend:
    return GuardedBackend(AddressPolicy(), Resolver(names, ttl_s=0), inner=network, **options)


@pytest.mark.parametrize(
    "answer",
    [
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["fe80::1%eth0"],
        ["::ffff:10.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["10.0.0.1", "8.8.8.8"],
        ["2606:4700::1", "fd00:ec2::254"],
    ],
)
async def test_a_name_with_any_forbidden_address_is_refused_before_a_socket_is_opened(
    answer: list[str],
) -> None:
    network = FakeNetwork({key: [OK] for key in answer})
    with pytest.raises(EgressRefusedError) as caught:
        await backend(FakeNames(evil_example=answer), network).connect_tcp("evil.example", 443, timeout=5)
    assert network.connected == []
    assert not any(address in caught.value.message for address in answer)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1"])
async def test_a_literal_is_checked_by_the_backend_too(host: str) -> None:
    network = FakeNetwork({host: [OK]})
    with pytest.raises(EgressRefusedError):
        await backend(FakeNames(), network).connect_tcp(host, 443)
    assert network.connected == []


async def test_rebinding_connects_to_the_checked_address_and_resolves_once() -> None:
    names = FakeNames(rebind_example=[["8.8.8.8"], ["127.0.0.1"]])
    network = FakeNetwork({"8.8.8.8": [OK], "127.0.0.1": [OK]})
    guarded = backend(names, network)
    await guarded.connect_tcp("rebind.example", 443, timeout=5)
    assert network.connected == [("8.8.8.8", 443)]
    assert names.asked == ["rebind.example"]
    with pytest.raises(EgressRefusedError):
        await guarded.connect_tcp("rebind.example", 443, timeout=5)
    assert network.connected == [("8.8.8.8", 443)]


async def test_falls_back_over_the_allowed_addresses_with_the_families_in_turn() -> None:
    answer = ["8.8.8.8", "8.8.4.4", "2606:4700::1"]
    network = FakeNetwork({"8.8.4.4": [OK]})
    await backend(FakeNames(a_example=answer), network).connect_tcp("a.example", 443, timeout=5)
    assert [host for host, _ in network.connected] == ["8.8.8.8", "2606:4700::1", "8.8.4.4"]


async def test_reports_the_failure_when_no_address_accepts() -> None:
    network = FakeNetwork()
    guarded = backend(FakeNames(a_example=["8.8.8.8", "8.8.4.4"]), network)
    with pytest.raises(httpcore2.ConnectError):
        await guarded.connect_tcp("a.example", 443, timeout=5)
    assert len(network.connected) == 2


class Slow(FakeNetwork):
    """The first address never answers."""

    def __init__(self, dead: str, replies: dict[str, list[bytes]]) -> None:
        super().__init__(replies)
        self.dead = dead
        self.abandoned = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the signature is httpcore2's
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        if host == self.dead:
            self.connected.append((host, port))
            try:
                await anyio.sleep_forever()
            finally:
                self.abandoned = True
        return await super().connect_tcp(host, port)


async def test_an_address_that_hangs_is_overtaken_and_abandoned() -> None:
    network = Slow("8.8.8.8", {"8.8.4.4": [OK]})
    guarded = backend(FakeNames(a_example=["8.8.8.8", "8.8.4.4"]), network, stagger_s=0.0)
    with anyio.fail_after(5):
        await guarded.connect_tcp("a.example", 443)
    assert network.abandoned


@pytest.mark.parametrize("answer", [["8.8.8.8"], ["8.8.8.8", "8.8.4.4"]])
async def test_connecting_is_bounded_over_all_attempts(answer: list[str]) -> None:
    network = Slow("8.8.8.8", {})
    guarded = backend(FakeNames(a_example=answer), network)
    with anyio.fail_after(5), pytest.raises(httpcore2.ConnectTimeout):
        await guarded.connect_tcp("a.example", 443, timeout=0.02)


async def test_unix_sockets_are_not_reachable() -> None:
    with pytest.raises(NotImplementedError):
        await backend(FakeNames(), FakeNetwork()).connect_unix_socket("/run/docker.sock")


async def test_checked_returns_every_address() -> None:
    guarded = GuardedBackend(
        AddressPolicy(allow_networks=(ip_network("10.0.0.0/8"),)),
        Resolver(FakeNames(a_example=["10.0.0.1", "1.1.1.1"])),
    )
    assert await guarded.checked("a.example") == (ip_address("10.0.0.1"), ip_address("1.1.1.1"))


def test_httpx2_still_builds_nothing_but_a_pool() -> None:
    """PooledTransport stands in for this constructor; a new attribute there must be looked at."""
    assert set(vars(httpx2.AsyncHTTPTransport(trust_env=False))) == {"_pool"}
