"""From init to callback, and the attacks on the way."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, JSONResponse

from agentapi.egress import Egress
from agentapi.errors import (
    AgentAPIError,
    EgressRefusedError,
    InvalidRequestError,
    NotFoundError,
    UpstreamNeedsConnectionError,
)
from agentapi.oauth import store
from agentapi.oauth.errors import AuthorizationServerError, ClientMissingError, FlowRefusedError, ReconnectNeededError
from agentapi.oauth.models import Client, ClientAuth, FlowId, ProviderName, Registration
from agentapi.oauth.requests import ProviderInput
from agentapi.upstreams import store as upstream_store
from integration.oauth.conftest import room_of
from integration.oauth.provider import both, provider
from tenants import NOW
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.oauth.flow import Begun
    from agentapi.storage.database import Database
    from integration.oauth.conftest import Bench


async def test_a_user_connects_with_nothing_configured_by_hand(bench: Bench) -> None:
    with pytest.raises(UpstreamNeedsConnectionError, match="you have none"):
        await bench.credential()
    begun = await bench.init()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.url).query).items()}
    assert asked["resource"] == f"{bench.provider.url}/mcp"
    assert asked["scope"] == "read offline_access"
    assert asked["client_id"] == "dynamic-1"
    assert len(asked["state"]) < 300
    finished = await bench.finish(begun)
    assert (finished.upstream_name, finished.return_to) == ("tracker", None)
    assert (await bench.credential()).startswith("Bearer access-")
    assert await bench.rows("oauth_flows") == 0
    token = next(asked for asked in bench.provider.asked if asked.path == "/token")
    assert token.form["resource"] == f"{bench.provider.url}/mcp"
    assert token.headers["authorization"].startswith("Basic ")


async def test_a_client_is_registered_once_for_each_issuer(bench: Bench) -> None:
    await bench.connect()
    await bench.connect()
    assert bench.provider.registrations == 1


async def test_a_server_that_takes_metadata_documents_is_given_the_address_of_the_gateways(bench: Bench) -> None:
    bench.provider.metadata_changes = {"client_id_metadata_document_supported": True}
    elsewhere = "https://static.example/agentapi.json"
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"public_url": "https://gateway.example"}, "https://gateway.example/.well-known/oauth-client.json"),
            ({"oauth_client_metadata_url": elsewhere}, elsewhere),
        )
        for settings, expected in cases:
            bench.room = room_of(bench.database, egress, bench.room.flows._keyring, bench.clock, **settings)
            begun = await bench.init()
            assert parse_qs(urlsplit(begun.url).query)["client_id"] == [expected]
            assert bench.room.clients.document()["client_id"] == expected
            await bench.finish(begun)
            assert bench.provider.asked[-1].form["client_id"] == expected
    assert bench.provider.registrations == 0


async def test_of_two_registrations_at_once_the_first_stands_and_both_flows_end(bench: Bench) -> None:
    bob = bench.tenant.colleague("bob")
    register, both = bench.provider.answers["/register"], asyncio.Barrier(2)

    async def together(asked: object) -> object:
        await both.wait()
        return register(asked)

    bench.provider.answers["/register"] = together
    begun = await asyncio.gather(bench.init(), bench.init(principal=bob.principal))
    for one in begun:
        await bench.finish(one)
    assert bench.provider.registrations == 2
    assert len({parse_qs(urlsplit(one.url).query)["client_id"][0] for one in begun}) == 1


async def test_a_registration_that_has_expired_is_made_again(bench: Bench) -> None:
    register = bench.provider.answers["/register"]
    ends = int(bench.clock().timestamp()) + 60
    bench.provider.answers["/register"] = JSONResponse(
        {"client_id": "short", "client_secret": "shh", "client_secret_expires_at": ends}, 201
    )
    await bench.connect()
    bench.provider.answers["/register"] = register
    bench.clock.moved += timedelta(seconds=60)
    begun = await bench.init()
    assert parse_qs(urlsplit(begun.url).query)["client_id"] == ["dynamic-1"]
    bench.clock.moved += timedelta(seconds=3600)
    with pytest.raises(ReconnectNeededError):
        await bench.credential()


async def test_the_connection_of_one_user_is_nobody_elses(bench: Bench) -> None:
    await bench.connect()
    bob = bench.tenant.colleague("bob")
    with pytest.raises(UpstreamNeedsConnectionError):
        await bench.credential(bob)
    assert await bench.room.book.page(bob.principal, limit=10, after=None) == []
    with pytest.raises(NotFoundError):
        await bench.room.revoker.revoke(bob.principal, bench.upstream.id)


async def test_a_replayed_callback_is_refused_and_changes_nothing(bench: Bench) -> None:
    begun = await bench.init()
    answer = bench.answer(begun)
    await bench.room.flows.finish(answer, browser=begun.browser)
    before = await bench.credential()
    with pytest.raises(FlowRefusedError):
        await bench.room.flows.finish(answer, browser=begun.browser)
    assert await bench.credential() == before


async def test_of_two_callbacks_at_once_exactly_one_wins(bench: Bench) -> None:
    for _ in range(5):
        begun = await bench.init()
        answer = bench.answer(begun)
        outcomes = await both(*(bench.room.flows.finish(answer, browser=begun.browser) for _ in range(4)))
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(failures) == 3
        assert all(isinstance(failure, FlowRefusedError) for failure in failures)


async def test_another_browser_is_refused_and_the_right_one_still_gets_through(bench: Bench) -> None:
    """A victim is sent the link of an attacker's flow, or an attacker catches a victim's."""
    begun = await bench.init()
    other = await bench.init()
    for browser in (None, "", other.browser, begun.browser[:-1], begun.browser + "x"):
        with pytest.raises(FlowRefusedError):
            await bench.finish(begun, browser=browser)
    await bench.finish(begun)


async def test_the_state_of_another_user_makes_no_connection_of_ones_own(bench: Bench) -> None:
    bob = bench.tenant.colleague("bob")
    alices, bobs = await bench.init(), await bench.init(principal=bob.principal)
    with pytest.raises(FlowRefusedError):
        await bench.finish(alices, browser=bobs.browser)
    await bench.finish(alices)
    with pytest.raises(UpstreamNeedsConnectionError):
        await bench.credential(bob)


@pytest.mark.parametrize("state", [None, "", "x", "A" * 200, "\u00e9"])
async def test_a_made_up_state_is_refused(bench: Bench, state: str | None) -> None:
    begun = await bench.init()
    with pytest.raises(FlowRefusedError):
        await bench.finish(begun, state=state)


async def test_a_flow_ends_after_ten_minutes(bench: Bench) -> None:
    begun = await bench.init()
    answer = bench.answer(begun)
    bench.clock.moved += begun.expires_at - bench.clock()
    with pytest.raises(FlowRefusedError):
        await bench.room.flows.finish(answer, browser=begun.browser)
    await bench.init()
    assert await bench.rows("oauth_flows") == 1


async def test_a_flow_that_has_expired_is_not_taken_even_if_its_state_opens(bench: Bench) -> None:
    """The state and the row each know when the flow ends."""
    flow = store.StoredFlow(
        id=FlowId(uuid4()),
        org_id=bench.principal.org_id,
        user_id=bench.principal.user_id,
        upstream_id=bench.upstream.id,
        state_hash=bytes(32),
        browser_hash=bytes(32),
        sealed=b"",
        expires_at=NOW,
    )
    asked: dict[str, Any] = {"state_hash": flow.state_hash, "browser_hash": flow.browser_hash}
    async with bench.database.tenant_transaction(bench.principal) as connection:
        await store.insert_flow(connection, flow)
        assert await store.take_flow(connection, flow.user_id, **asked, now=NOW) is None
        before = NOW - timedelta(microseconds=1)
        assert await store.take_flow(connection, flow.user_id, **asked, now=before) == flow
        assert await store.take_flow(connection, flow.user_id, **asked, now=before) is None


async def test_flows_that_nobody_ends_do_not_pile_up(bench: Bench) -> None:
    first, *_, last = [await bench.init() for _ in range(21)]
    assert await bench.rows("oauth_flows") == 20
    with pytest.raises(FlowRefusedError):
        await bench.finish(first)
    await bench.finish(last)


async def test_a_swapped_code_does_not_open_with_the_verifier_of_another_flow(bench: Bench) -> None:
    begun, other = await bench.init(), await bench.init()
    with pytest.raises(AuthorizationServerError):
        await bench.finish(begun, code=bench.answer(other).code)
    assert await bench.rows("oauth_connections") == 0


@pytest.mark.parametrize("issuer", [None, "https://honest.example", "{url}/", "{url}x"])
@pytest.mark.parametrize("error", [None, "access_denied"])
async def test_an_answer_of_another_server_is_not_believed(bench: Bench, issuer: str | None, error: str | None) -> None:
    """Mix-up (RFC 9207): the code must not reach the server that the answer does not come from."""
    begun = await bench.init()
    named = None if issuer is None else issuer.format(url=bench.provider.url)
    with pytest.raises(FlowRefusedError, match="does not come from"):
        await bench.finish(begun, issuer=named, error=error)
    assert "/token" not in bench.provider.paths()
    assert await bench.rows("oauth_flows") == 0


async def test_an_issuer_that_is_named_unasked_is_compared_as_well(bench: Bench) -> None:
    bench.provider.announces_issuer = False
    with pytest.raises(FlowRefusedError, match="does not come from"):
        await bench.finish(await bench.init(), issuer="https://honest.example")
    await bench.finish(await bench.init())


@pytest.mark.parametrize(
    "url", ["https://evil.example", "https://app.example/done?x=1", "https://app.example/done/", "//app.example/done"]
)
async def test_a_browser_is_sent_to_listed_addresses_alone(bench: Bench, url: str) -> None:
    with pytest.raises(InvalidRequestError, match="AGENTAPI_OAUTH_RETURN_URLS"):
        await bench.init(return_to=url)
    begun = await bench.init(return_to="https://app.example/done")
    assert (await bench.finish(begun)).return_to == "https://app.example/done"


@pytest.mark.parametrize("error", ["access_denied", "server_error", "<script>"])
async def test_a_refusal_at_the_provider_leaves_nothing_behind(bench: Bench, error: str) -> None:
    begun = await bench.init()
    with pytest.raises(AuthorizationServerError) as refused:
        await bench.finish(begun, code=None, error=error)
    assert error not in refused.value.message
    assert (await bench.rows("oauth_flows"), await bench.rows("oauth_connections")) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [HTMLResponse("<html>"), JSONResponse({"error": "invalid_grant"}, 400), JSONResponse({}, 500), JSONResponse([])],
)
async def test_a_token_answer_that_is_none_leaves_nothing_behind(bench: Bench, answer: Any) -> None:
    bench.provider.token_answer = answer
    with pytest.raises(AuthorizationServerError):
        await bench.connect()
    assert (await bench.rows("oauth_flows"), await bench.rows("oauth_connections")) == (0, 0)


@pytest.mark.parametrize("change", ["endpoint", "deleted"])
async def test_a_token_for_an_upstream_that_went_away_is_given_back(bench: Bench, change: str) -> None:
    begun = await bench.init()
    answer = bench.answer(begun)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        if change == "deleted":
            await upstream_store.delete_upstream(connection, bench.upstream.id)
        else:
            moved = replace(bench.upstream, endpoint="https://elsewhere.example/mcp")
            await upstream_store.update_upstream(connection, moved, now=NOW)
    with pytest.raises(AgentAPIError):
        await bench.room.flows.finish(answer, browser=begun.browser)
    if change == "endpoint":
        assert len(bench.provider.revoked) == 1
    assert await bench.rows("oauth_connections") == 0


async def test_a_token_does_not_follow_an_upstream_to_another_address(bench: Bench) -> None:
    await bench.connect()
    bench.upstream = replace(bench.upstream, endpoint="https://evil.example/mcp")
    with pytest.raises(ReconnectNeededError, match="another address"):
        await bench.credential()


def made_by_hand(issuer: str) -> Client:
    return Client(
        issuer=issuer,
        client_id="our-app",
        secret=SecretStr("our-secret"),
        auth_method=ClientAuth.POST,
        registration=Registration.MANUAL,
    )


async def choose_metadata(bench: Bench, **parameters: str) -> None:
    """Keep to what the upstream publishes, with scopes of the administrator's."""
    await bench.room.book.choose(
        bench.principal,
        bench.upstream.id,
        ProviderInput(provider=ProviderName.MCP, parameters=parameters, scopes=("write",)),
    )


def client_of(begun: Begun) -> str:
    return parse_qs(urlsplit(begun.url).query)["client_id"][0]


async def test_a_client_made_by_hand_is_not_lent_to_an_upstream_that_nobody_chose_it_for(bench: Bench) -> None:
    """A confused deputy: an upstream names the issuer at which the organisation has an application of its own."""
    bench.provider.metadata_changes = {"registration_endpoint": ...}
    await bench.room.clients.put(bench.principal, made_by_hand(bench.provider.url))
    with pytest.raises(ClientMissingError):
        await bench.init()
    await choose_metadata(bench)
    with pytest.raises(ClientMissingError, match="choose this issuer"):
        await bench.init()
    await choose_metadata(bench, issuer=bench.provider.url)
    begun = await bench.init()
    assert client_of(begun) == "our-app"
    await bench.finish(begun)
    assert bench.provider.asked[-1].form["client_secret"] == "our-secret"


@pytest.mark.parametrize("whose", ["organisation", "deployment"])
async def test_an_upstream_cannot_pick_which_client_made_by_hand_it_gets(
    bench: Bench, oauth_database: Database, oauth_keyring: Keyring, whose: str
) -> None:
    """The row was about this upstream's own server; then the upstream names another issuer that knows us."""
    ours = {"issuer": bench.provider.url, "client_id": "our-app", "client_secret": "our-secret"}
    defaults = [ours] if whose == "deployment" else []
    async with provider() as own, Egress(LOOPBACK, timeout_s=5.0) as egress:
        bench.room = room_of(oauth_database, egress, oauth_keyring, bench.clock, oauth_clients=defaults)
        if whose == "organisation":
            await bench.room.clients.put(bench.principal, made_by_hand(bench.provider.url))
        await choose_metadata(bench, issuer=own.url)
        if whose == "organisation":
            with pytest.raises(ClientMissingError):
                await bench.init()
        else:
            assert client_of(await bench.init()) == "dynamic-1"


async def test_a_step_up_asks_for_the_union_of_scopes(bench: Bench) -> None:
    await bench.connect()
    begun = await bench.init(more_scopes=("write",))
    assert parse_qs(urlsplit(begun.url).query)["scope"] == ["read offline_access write"]


async def test_metadata_that_turns_to_a_private_address_is_refused(bench: Bench) -> None:
    bench.provider.metadata_changes = {"token_endpoint": "http://169.254.169.254/token"}
    with pytest.raises(EgressRefusedError):
        await bench.init()
    assert await bench.rows("oauth_flows") == 0


async def test_nothing_of_a_secret_stands_in_the_database(bench: Bench) -> None:
    begun = await bench.init()
    verifier_of = dict(bench.provider.codes)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        flows = str([tuple(row) for row in await connection.fetch("SELECT * FROM oauth_flows")])
    state = parse_qs(urlsplit(begun.url).query)["state"][0]
    assert state not in flows
    assert begun.browser not in flows
    assert verifier_of == {}
    await bench.finish(begun)
    token = (await bench.credential()).removeprefix("Bearer ")
    async with bench.database.tenant_transaction(bench.principal) as connection:
        rows = [*await connection.fetch("SELECT * FROM oauth_connections")]
        rows += await connection.fetch("SELECT * FROM oauth_clients")
    stored = b"\n".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
    for secret in (token, *bench.provider.refresh_tokens, "dynamic-secret"):
        for form in (secret.encode(), base64.b64encode(secret.encode()), secret.encode().hex().encode()):
            assert form not in stored


async def test_a_stdio_upstream_takes_no_connection(bench: Bench) -> None:
    bench.upstream = replace(bench.upstream, endpoint=None)
    with pytest.raises(InvalidRequestError):
        await bench.init()
