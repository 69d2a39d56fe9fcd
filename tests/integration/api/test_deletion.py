"""The end of an organisation that has something in every table, counted before and after with all that it could use."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx2
import pytest

from agentapi.principal import Role
from integration.api.harness import PUBLIC_URL, Api, lifespan_of, served, settings_for
from integration.api.servers import Seen, mcp_app
from integration.api.test_organizations import INVITATIONS, ORGANIZATIONS, TABLES_OF_TENANTS, WORKSPACES, decide, me
from integration.api.test_policy import POLICY, TOOLSETS
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from integration.api.harness import Caller

    Link = asyncpg.Connection[asyncpg.Record]

FILLED = {
    "api_keys",
    "brought_credentials",
    "invitations",
    "members",
    "oauth_clients",
    "oauth_connections",
    "oauth_flows",
    "oauth_upstreams",
    "prompt_versions",
    "prompts",
    "sessions",
    "tool_approval_revisions",
    "tool_approvals",
    "tool_policies",
    "toolsets",
    "upstreams",
    "workspaces",
}
"""Every table of tenants that this test fills; those that come later are held to their foreign keys."""
FORM = {
    "fields": [{"name": "token", "label": "Token", "kind": "secret"}],
    "placements": [{"place": "header", "name": "Authorization", "value": "Bearer {token}"}],
}


@pytest.fixture
async def patient(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, tmp_path: Path
) -> AsyncIterator[httpx2.AsyncClient]:
    """A gateway that waits for a process to start, however busy the machine is, and whose directories are its own."""
    async with lifespan_of(settings_for(postgres, issuer, keyring, tmp_path, upstream_connect_timeout_s=60.0)) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            yield client


async def count(superuser: Link, org_id: object) -> dict[str, int]:
    """Return how many rows name the organisation, by table, of those that have any."""
    counted = {}
    for (name,) in await superuser.fetch(TABLES_OF_TENANTS):
        counted[name] = await superuser.fetchval(f'SELECT count(*) FROM "{name}" WHERE org_id = $1', org_id)  # noqa: S608
    return {name: rows for name, rows in counted.items() if rows}


async def ok(caller: Caller, method: str, path: str, **body: Any) -> dict[str, Any]:
    answer = await caller.request(method, path, json=body)
    assert answer.is_success, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def listed(api: Api, caller: Caller) -> list[str]:
    url = f"/mcp/{api.tenant.principal.org_slug}/main"
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    answer = await caller.request("POST", url, json=body, headers=headers)
    return [tool["name"] for tool in answer.json()["result"]["tools"]]


async def fill(api: Api, superuser: Link, endpoint: str) -> list[str]:
    """Give the organisation at least a row in every table, and return its keys and the token of a session."""
    alice, bob = api.caller(), api.caller(Role.MEMBER, "bob")
    org_id = api.tenant.principal.org_id
    await ok(alice, "POST", WORKSPACES, slug="lab", name="Lab")
    await alice.created(name="remote", endpoint=endpoint)
    await alice.created(name="clock", transport="stdio", endpoint=..., command="clock")
    await bob.created(name="own", endpoint=endpoint, scope="user")
    asking = await alice.created(name="asking", endpoint=endpoint, auth="user", credential_form=FORM)
    await ok(bob, "PUT", f"/api/v1/mcp/credentials/{asking['id']}", values={"token": "s3cret-of-bob"})
    await ok(alice, "PUT", POLICY, default="allow")
    await ok(alice, "POST", TOOLSETS, name="set", tools=["*"])
    await ok(alice, "POST", INVITATIONS, role="member")
    for caller, scope in ((alice, "organization"), (bob, "user")):
        await ok(caller, "POST", "/api/v1/prompts", name="style", text="text", scope=scope)
    keys = [(await ok(bob, "POST", "/api/v1/api-keys", name=acts, acts_as=acts))["key"] for acts in ("user", "agent")]
    # What is met of tools is written down.
    assert any(name.startswith("clock__") for name in await listed(api, bob))
    tracker = await alice.created(name="tracker", endpoint=endpoint, auth="oauth")
    upstream, now = UUID(tracker["id"]), datetime.now(UTC)
    await superuser.execute(
        "INSERT INTO oauth_clients (org_id, issuer, client_id, auth_method, registration, updated_by)"
        " VALUES ($1, 'https://issuer.example', 'us', 'none', 'manual', $2)",
        *(org_id, UUID(me("alice"))),
    )
    await superuser.execute(
        "INSERT INTO oauth_upstreams (org_id, upstream_id, provider, updated_by) VALUES ($1, $2, 'oidc', $3)",
        *(org_id, upstream, UUID(me("alice"))),
    )
    await superuser.execute(
        "INSERT INTO oauth_flows (id, org_id, user_id, upstream_id, state_hash, browser_hash, sealed, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $5, $5, $6)",
        *(uuid4(), org_id, UUID(me("bob")), upstream, bytes(32), now + timedelta(minutes=10)),
    )
    # A grant that does not open any more, so that no provider is asked: what became of those is tested with one.
    await superuser.execute(
        "INSERT INTO oauth_connections (id, org_id, user_id, upstream_id, provider, sealed, scopes)"
        " VALUES ($1, $2, $3, $4, 'oidc', $5, '{}')",
        *(uuid4(), org_id, UUID(me("bob")), upstream, bytes(40)),
    )
    return [*keys, (await ok(bob, "POST", "/api/v1/sessions", name="agent"))["token"]]


async def test_an_organisation_leaves_no_row_no_directory_no_process_and_no_credential(
    patient: httpx2.AsyncClient, issuer: TokenIssuer, superuser: Link, database: Database, tmp_path: Path
) -> None:
    api, neighbour = [Api(patient, issuer, await make_tenant(database)) for _ in range(2)]
    org_id, directories, sessions = api.tenant.principal.org_id, tmp_path / "stdio", tmp_path / "sessions"
    async with served(mcp_app(Seen()), lifespan=True) as url:
        keys = await fill(api, superuser, f"{url}/mcp")
        await fill(neighbour, superuser, f"{url}/mcp")
        before, theirs = await count(superuser, org_id), await count(superuser, neighbour.tenant.principal.org_id)
        assert set(before) >= FILLED
        assert theirs == before
        assert len(list(directories.glob("*"))) == 2
        assert len(list(sessions.glob("*/*"))) == 2
        await decide(api, owner_id=me("alice"))
        deleted = await api.caller().request("DELETE", f"{ORGANIZATIONS}/{org_id}")
        assert deleted.status_code == 204, deleted.text
        assert await count(superuser, org_id) == {}
        assert [path.parent.name for path in sessions.glob("*/*")] == [str(neighbour.tenant.principal.org_id)]
        assert await superuser.fetchval("SELECT count(*) FROM organizations WHERE id = $1", org_id) == 0
        assert await count(superuser, neighbour.tenant.principal.org_id) == theirs
        async with asyncio.timeout(10):
            while len(list(directories.glob("*"))) > 1:  # noqa: ASYNC110 - no directory tells
                await asyncio.sleep(0.01)
        assert any(name.startswith("clock__") for name in await listed(neighbour, neighbour.caller(Role.MEMBER, "bob")))
    for key in keys:
        answer = await api.http.request("GET", ORGANIZATIONS, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 401
    for role, subject in ((Role.ORG_ADMIN, "alice"), (Role.MEMBER, "bob")):
        assert (await api.caller(role, subject).request("GET", ORGANIZATIONS)).status_code == 404
    kept = await superuser.fetch("SELECT action FROM audit_log WHERE org_id = $1 ORDER BY recorded_at", org_id)
    assert [row["action"] for row in kept][-1] == "organization.deleted"
    assert {"organization.deletion_begun", "upstream.created", "api_keys.created"} <= {row["action"] for row in kept}
