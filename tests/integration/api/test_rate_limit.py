"""The rate limit at the endpoint: after admission, and told to the request that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from agentapi.principal import Role
from integration.api.harness import PUBLIC_URL, Api, lifespan_of, settings_for
from integration.api.test_mcp_endpoint import HEADERS, LIST

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres


async def test_a_caller_that_asks_too_often_is_told_when_to_come_back(
    api: Api, postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> None:
    limited = settings_for(
        postgres, issuer, keyring, state_dir, stdio_commands={}, rate_limit_per_minute=2, rate_limit_burst=1
    )
    path = f"/mcp/{api.tenant.principal.org_slug}/main"
    async with (
        lifespan_of(limited) as app,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=PUBLIC_URL) as http,
    ):
        local = Api(http, issuer, api.tenant)
        first = await local.caller().request("POST", path, headers=HEADERS, json=LIST)
        again = await local.caller().request("POST", path, headers=HEADERS, json={**LIST, "id": "two"})
        other = await local.caller(subject="bob").request("POST", path, headers=HEADERS, json=LIST)
        bob = local.caller(Role.MEMBER, "bob")
        stranger = await bob.request("POST", "/mcp/other/main", headers=HEADERS, json=LIST)
    assert (first.status_code, other.status_code, stranger.status_code) == (200, 200, 404)
    assert again.status_code == 429
    assert 0 < int(again.headers["retry-after"]) <= 30
    assert again.json()["id"] == "two"
    assert again.json()["error"]["data"] == {"code": "rate_limited"}
