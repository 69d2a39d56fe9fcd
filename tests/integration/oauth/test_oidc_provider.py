"""Against a real authorization server that nobody here wrote: npm's ``oidc-provider``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator  # noqa: TC003 - pytest-asyncio reads it
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet
from pydantic import SecretStr

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.oauth.clients import store as client_store
from agentapi.oauth.errors import (
    AuthorizationServerError,
    FlowRefusedError,
    GrantRefusedError,
    ReconnectNeededError,
)
from agentapi.oauth.flow import Answer, Begun
from agentapi.oauth.models import Binding, Client, ClientAuth, ProviderName, Registration
from integration.oauth.provider import both
from support.oidc import oidc_provider
from tenants import NOW
from unit.oauth.sites import site

if TYPE_CHECKING:
    from integration.oauth.conftest import Bench

LIFETIME_S = 3600


@pytest.fixture(scope="session")
async def issuer() -> AsyncIterator[str]:
    """The address of the server."""
    async with oidc_provider(LIFETIME_S) as address:
        yield address


@pytest.fixture
async def real(bench: Bench, issuer: str) -> AsyncIterator[Bench]:
    """The bench with an upstream that names the real server as its own."""

    def build(url: str) -> dict[str, Any]:
        metadata = {"resource": f"{url}/mcp", "authorization_servers": [issuer], "scopes_supported": ["read"]}
        return {"/.well-known/oauth-protected-resource/mcp": metadata}

    async with site(build) as upstream:
        yield await moved(bench, upstream.url)


async def moved(bench: Bench, url: str) -> Bench:
    bench.upstream = replace(bench.upstream, endpoint=f"{url}/mcp")
    async with bench.database.tenant_transaction(bench.principal) as connection:
        await connection.execute(
            "UPDATE upstreams SET endpoint = $2 WHERE id = $1", bench.upstream.id, bench.upstream.endpoint
        )
    return bench


async def browse(url: str, *, login: str = "alice", deny: bool = False) -> Answer:
    """Walk through the server's pages as a browser would, up to the redirect to the gateway."""
    async with httpx2.AsyncClient(trust_env=False) as browser:
        answer = await browser.get(url)
        for _ in range(12):
            if answer.is_redirect:
                target = answer.headers["location"]
                if target.startswith("http://gateway.example/"):
                    given = dict(httpx2.URL(target).params)
                    return Answer(
                        state=given.get("state"),
                        code=given.get("code"),
                        error=given.get("error"),
                        issuer=given.get("iss"),
                    )
                answer = await browser.get(answer.url.join(target))
                continue
            assert answer.status_code == 200, answer.text
            if deny:
                answer = await browser.get(answer.url.join(f"{answer.url.path}/abort"))
                continue
            form = dict(re.findall(r'name="(prompt)" value="(\w+)"', answer.text))
            if form["prompt"] == "login":
                form |= {"login": login, "password": "any"}
            action = re.search(r'action="([^"]+)"', answer.text)
            assert action is not None
            answer = await browser.post(answer.url.join(action[1]), data=form)
    raise AssertionError("the server sends the browser round in circles")


async def connect(bench: Bench) -> Begun:
    begun = await bench.init()
    await bench.room.flows.finish(await browse(begun.url), browser=begun.browser)
    return begun


async def claims(bench: Bench, issuer: str, credential: str) -> dict[str, Any]:
    """Verify an access token as its resource server would."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        keys = KeySet.import_key_set((await client.get(f"{issuer}/jwks")).json())
    token = jwt.decode(credential.removeprefix("Bearer "), keys, algorithms=["RS256"])
    assert token.claims["iss"] == issuer
    assert token.claims["aud"] == bench.upstream.endpoint
    return dict(token.claims)


async def test_discovery_registration_and_connection_with_nothing_configured(real: Bench, issuer: str) -> None:
    await connect(real)
    found = await claims(real, issuer, await real.credential())
    assert (found["sub"], found["scope"]) == ("alice", "read")


async def test_an_expired_token_is_refreshed_and_rotated(real: Bench, issuer: str) -> None:
    await connect(real)
    newest = await real.credential()
    seen = {newest}
    for _ in range(2):
        real.clock.moved += timedelta(seconds=LIFETIME_S)
        given = await asyncio.gather(*(real.credential() for _ in range(20)))
        assert len(set(given)) == 1
        newest = given[0]
        assert newest not in seen
        seen.add(newest)
    await claims(real, issuer, newest)


async def test_a_refresh_token_that_was_spent_elsewhere_ends_the_connection(real: Bench, issuer: str) -> None:
    """What a crash between answer and commit leaves: the server has rotated, and knows no mercy for the old token."""
    await connect(real)
    async with real.database.tenant_transaction(real.principal) as connection:
        row = await connection.fetchrow("SELECT * FROM oauth_connections")
        stored = await client_store.find_client(connection, issuer)
    assert row is not None
    assert stored is not None
    held = (await real.room.book.page(real.principal, limit=1, after=None))[0]
    refreshed = await real.room.book.refresh(real.principal, real.upstream.id)
    assert refreshed.generation == held.generation + 1
    async with real.database.tenant_transaction(real.principal) as connection:
        await connection.execute("UPDATE oauth_connections SET sealed = $1, refresh_begun_at = now()", held.sealed)
    with pytest.raises(ReconnectNeededError):
        await real.room.book.refresh(real.principal, real.upstream.id)
    async with real.database.tenant_transaction(real.principal) as connection:
        assert await connection.fetchval("SELECT status_reason FROM oauth_connections") == "refresh_interrupted"
    await connect(real)
    await real.credential()


async def test_a_revocation_is_one_at_the_server(real: Bench) -> None:
    await connect(real)
    before = (await real.room.book.page(real.principal, limit=1, after=None))[0]
    assert await real.room.revoker.revoke(real.principal, real.upstream.id) == "revoked"
    with pytest.raises(UpstreamNeedsConnectionError):
        await real.credential()
    refresher = real.room.refresher
    grant = refresher._vault.open_grant(before)
    client = await real.room.clients.of_grant(before.org_id, before.user_id, grant.server, grant.client_id)
    with pytest.raises(GrantRefusedError, match="invalid_grant"):
        await refresher._tokens(grant, client)


async def test_the_server_takes_a_code_once_and_the_gateway_a_state_once(real: Bench) -> None:
    begun = await real.init()
    answer = await browse(begun.url)
    outcomes = await both(*(real.room.flows.finish(answer, browser=begun.browser) for _ in range(3)))
    assert sum(isinstance(outcome, FlowRefusedError) for outcome in outcomes) == 2
    await real.credential()


async def test_a_code_of_another_flow_is_refused_by_the_server(real: Bench) -> None:
    mine, other = await real.init(), await real.init()
    stolen = await browse(other.url, login="mallory")
    swapped = replace(await browse(mine.url), code=stolen.code)
    with pytest.raises(AuthorizationServerError):
        await real.room.flows.finish(swapped, browser=mine.browser)
    with pytest.raises(UpstreamNeedsConnectionError):
        await real.credential()


async def test_the_server_names_itself_and_another_name_is_not_believed(real: Bench, issuer: str) -> None:
    begun = await real.init()
    answer = await browse(begun.url)
    assert answer.issuer == issuer
    with pytest.raises(FlowRefusedError):
        await real.room.flows.finish(replace(answer, issuer=f"{issuer}/"), browser=begun.browser)


async def test_a_user_who_does_not_agree_is_told_so(real: Bench) -> None:
    begun = await real.init()
    with pytest.raises(AuthorizationServerError, match="not allowed"):
        await real.room.flows.finish(await browse(begun.url, deny=True), browser=begun.browser)
    assert await real.rows("oauth_flows") == 0


async def test_an_issuer_chosen_by_hand_works_with_a_client_made_by_hand(real: Bench, issuer: str) -> None:
    async with real.database.tenant_transaction(real.principal) as connection:
        await client_store.put_binding(
            connection,
            Binding(
                upstream_id=real.upstream.id,
                provider=ProviderName.OIDC,
                parameters={"issuer": issuer},
                scopes=("openid",),
            ),
            org_id=real.principal.org_id,
            updated_by=real.principal.user_id,
            now=NOW,
        )
    client = Client(
        issuer=issuer,
        client_id="by-hand",
        secret=SecretStr("by-hand-secret"),
        auth_method=ClientAuth.POST,
        registration=Registration.MANUAL,
    )
    await real.room.clients.put(real.principal, client)
    begun = await connect(real)
    assert "client_id=by-hand" in begun.url
    real.clock.moved += timedelta(seconds=LIFETIME_S)
    await real.credential()
