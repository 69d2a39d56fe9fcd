"""Upstreams, authorization servers and name servers that turn on the gateway, each through a whole flow.

The attacks of browsers and of other users are in ``test_flow``. docs/security.md has the table of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator  # noqa: TC003 - Starlette's streaming takes it
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpcore2
import pytest
from starlette.responses import RedirectResponse, Response, StreamingResponse

from agentapi.egress import Egress
from agentapi.egress.resolver import Resolver
from agentapi.errors import AgentAPIError, EgressRefusedError, UpstreamNeedsConnectionError
from agentapi.oauth.errors import AuthorizationServerError
from agentapi.upstreams import store as upstream_store
from integration.oauth.conftest import room_of
from integration.oauth.provider import provider
from tenants import NOW
from unit.egress.doubles import FakeNames
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from integration.oauth.conftest import Bench

PRIVATE = (
    "http://169.254.169.254/latest/meta-data",
    "http://10.0.0.1/x",
    "http://[fd00:ec2::254]/x",
    "file:///etc/passwd",
)
RESOURCE_METADATA = "/.well-known/oauth-protected-resource/mcp"
SERVER_METADATA = "/.well-known/oauth-authorization-server"


async def nothing_is_left(bench: Bench) -> None:
    assert (await bench.rows("oauth_flows"), await bench.rows("oauth_connections")) == (0, 0)


@pytest.mark.parametrize("target", PRIVATE)
async def test_a_challenge_that_names_a_private_address_leads_nowhere(bench: Bench, target: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer resource_metadata="{target}"'}
    bench.provider.answers["/mcp"] = Response(status_code=401, headers=challenge)
    with pytest.raises(EgressRefusedError):
        await bench.init()
    await nothing_is_left(bench)


@pytest.mark.parametrize("target", PRIVATE)
@pytest.mark.parametrize("path", [RESOURCE_METADATA, SERVER_METADATA])
async def test_metadata_that_redirects_to_a_private_address_is_not_followed(
    bench: Bench, path: str, target: str
) -> None:
    bench.provider.answers[path] = RedirectResponse(target)
    with pytest.raises(AgentAPIError):
        await bench.init()
    await nothing_is_left(bench)


@pytest.mark.parametrize("member", ["authorization_endpoint", "token_endpoint", "registration_endpoint"])
@pytest.mark.parametrize("target", [*PRIVATE, "javascript:alert(1)"])
async def test_metadata_with_a_private_endpoint_is_refused_as_a_whole(bench: Bench, member: str, target: str) -> None:
    bench.provider.metadata_changes = {member: target}
    with pytest.raises(EgressRefusedError):
        await bench.init()
    assert bench.provider.registrations == 0
    await nothing_is_left(bench)


async def test_a_token_endpoint_that_redirects_is_not_given_the_code_a_second_time(bench: Bench) -> None:
    async with provider() as other:
        bench.provider.token_answer = RedirectResponse(f"{other.url}/token", 307)
        with pytest.raises(AuthorizationServerError):
            await bench.connect()
        assert other.asked == []
    await nothing_is_left(bench)


async def test_a_code_goes_to_the_server_that_the_flow_began_with(bench: Bench) -> None:
    """An upstream that changes its mind about its authorization server between init and callback."""
    begun = await bench.init()
    answer = bench.answer(begun)
    async with provider() as other:
        bench.provider.metadata_changes = {"token_endpoint": f"{other.url}/token"}
        bench.provider.answers[RESOURCE_METADATA] = {
            "resource": f"{bench.provider.url}/mcp",
            "authorization_servers": [other.url],
        }
        await bench.room.flows.finish(answer, browser=begun.browser)
        assert other.asked == []


class Network(httpcore2.AsyncNetworkBackend):
    """The network as it is, with a record of the addresses that were connected to."""

    def __init__(self) -> None:
        self.connected: list[str] = []
        self._real = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host: str, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        self.connected.append(host)
        return await self._real.connect_tcp(host, *args, **kwargs)


async def test_a_name_that_turns_private_between_init_and_callback_is_not_connected_to(bench: Bench) -> None:
    """DNS rebinding: what was checked for discovery does not count for the token request."""
    port = urlsplit(bench.provider.url).port
    bench.provider.url = f"http://tracker.example:{port}"
    bench.provider.lay_down()
    bench.upstream = replace(bench.upstream, endpoint=f"{bench.provider.url}/mcp")
    async with bench.database.tenant_transaction(bench.principal) as connection:
        await upstream_store.update_upstream(connection, bench.upstream, now=NOW)
    names = FakeNames(tracker_example=["127.0.0.1"])
    keyring = bench.room.flows._keyring
    network = Network()

    def egress() -> Egress:
        return Egress(LOOPBACK, timeout_s=5.0, resolver=Resolver(names, ttl_s=0.0), network=network)

    async with egress() as out:
        bench.room = room_of(bench.database, out, keyring, bench.clock)
        begun = await bench.init()
    answer = bench.answer(begun)
    # Each connection went to an address of the very answer that was checked for it.
    assert network.connected == ["127.0.0.1"] * len(names.asked)
    names.add("tracker.example", ["169.254.169.254"])
    async with egress() as out:
        bench.room = room_of(bench.database, out, keyring, bench.clock)
        with pytest.raises(EgressRefusedError):
            await bench.room.flows.finish(answer, browser=begun.browser)
    assert set(network.connected) == {"127.0.0.1"}
    await nothing_is_left(bench)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65_536
        await asyncio.sleep(0)


async def dribbling() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("body", [endless, dribbling])
async def test_a_token_answer_without_end_ends_with_nothing_connected(bench: Bench, body: Any) -> None:
    bench.provider.token_answer = StreamingResponse(body(), media_type="application/json")
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        bench.room = room_of(bench.database, egress, bench.room.flows._keyring, bench.clock, egress_timeout_s=0.5)
        async with asyncio.timeout(5.0):
            with pytest.raises(AuthorizationServerError):
                await bench.connect()
    await nothing_is_left(bench)


@pytest.mark.parametrize("methods", [..., [], ["plain"]])
async def test_no_browser_is_sent_to_a_server_without_pkce(bench: Bench, methods: Any) -> None:
    bench.provider.metadata_changes = {"code_challenge_methods_supported": methods}
    with pytest.raises(AuthorizationServerError, match="PKCE"):
        await bench.init()
    assert bench.provider.registrations == 0
    await nothing_is_left(bench)


@pytest.mark.parametrize("resource", ["{url}/other", "{url}/mcp/deeper", "https://bank.example/mcp"])
async def test_an_upstream_is_given_no_token_for_the_resource_of_another(bench: Bench, resource: str) -> None:
    """A confused deputy: the upstream says that it is somebody else, and would be handed their token."""
    bench.provider.answers[RESOURCE_METADATA] = {
        "resource": resource.format(url=bench.provider.url),
        "authorization_servers": [bench.provider.url],
    }
    with pytest.raises(AuthorizationServerError, match="about another resource"):
        await bench.init()
    await nothing_is_left(bench)


async def test_a_connection_serves_no_other_upstream_of_the_same_authorization_server(bench: Bench) -> None:
    await bench.connect()
    sibling = bench.tenant.upstream("sibling")
    bench.upstream = replace(sibling, auth=bench.upstream.auth, endpoint=bench.upstream.endpoint)
    with pytest.raises(UpstreamNeedsConnectionError):
        await bench.credential()
