"""Two replicas over one database: what is changed through one holds in the other within a second.

Each test asks the second replica first, so that it remembers the answer, and then for as long as it gives the old one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx2
import pytest

from agentapi.principal import Role
from agentapi.storage.notifier import CHANNEL, WITHIN_S, Change
from agentapi.tenancy.models import user_id_of
from integration.api.harness import ISSUER, PUBLIC_URL, Api, Caller, lifespan_of, served, settings_for
from integration.api.servers import Seen, mcp_app
from integration.api.test_organizations import INVITATIONS, MEMBERS, ORGANIZATIONS, WORKSPACES, decide, me
from integration.api.test_policy import POLICY, TOOLSETS
from support.plain import PLAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import asyncpg
    from starlette.applications import Starlette

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres

KEYS = "/api/v1/api-keys"
PROMPTS = "/api/v1/prompts"
SESSIONS = "/api/v1/sessions"


@pytest.fixture(scope="module")
async def other_app(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> AsyncIterator[Starlette]:
    settings = settings_for(postgres, issuer, keyring, state_dir, upstream_connect_timeout_s=2.0)
    async with lifespan_of(settings) as app:
        yield app


@pytest.fixture(scope="module")
async def other_http(other_app: Starlette) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=other_app)
    async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
        yield client


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[dict[str, str]]:
    async with served(mcp_app(Seen()), lifespan=True) as url:
        yield {"endpoint": f"{url}/mcp"}


@pytest.fixture
def there(api: Api, other_http: httpx2.AsyncClient) -> Api:
    """The same organisation by way of the other replica."""
    return Api(other_http, api.issuer, api.tenant)


async def shows(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Ask the other replica until it gives the new answer, which it must if it was asked a second after the change."""
    clock = asyncio.get_running_loop().time
    changed = asked = clock()
    while await ask() != wanted:
        assert asked - changed < WITHIN_S
        await asyncio.sleep(0.005)
        asked = clock()


async def rpc(api: Api, method: str, *, role: Role = Role.MEMBER, subject: str = "bob", path: str = "main") -> Any:
    url = f"/mcp/{api.tenant.principal.org_slug}/{path}"
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
    headers = {"Accept": "application/json, text/event-stream"}
    return await api.caller(role, subject).request("POST", url, json=body, headers=headers)


async def test_a_role_that_is_given_and_a_membership_that_ends(api: Api, there: Api) -> None:
    admin, bob = api.caller(), there.caller(Role.MEMBER, "bob")

    async def status() -> int:
        return (await bob.request("GET", MEMBERS)).status_code

    assert await status() == 403
    assert (await admin.request("PUT", f"{MEMBERS}/{me('bob')}", json={"role": "org_admin"})).status_code == 200
    await shows(status, 200)
    assert (await admin.request("DELETE", f"{MEMBERS}/{me('bob')}")).status_code == 204
    await shows(status, 403)
    token = (await admin.request("POST", INVITATIONS, json={"role": "org_admin"})).json()["token"]
    accepted = await api.caller(Role.MEMBER, "bob").request("POST", f"{INVITATIONS}/accept", json={"token": token})
    assert accepted.status_code == 200
    await shows(status, 200)


async def test_a_suspension_and_a_plan(api: Api, there: Api) -> None:
    async def status() -> int:
        return (await there.caller().request("GET", ORGANIZATIONS)).status_code

    async def limited() -> bool:
        return bool((await rpc(there, "ping")).status_code == 429)

    assert (await status(), await limited()) == (200, False)
    assert (await decide(api, suspended=True)).status_code == 200
    await shows(status, 403)
    assert (await decide(api, suspended=False)).status_code == 200
    await shows(status, 200)
    assert (await decide(api, requests_per_minute=1)).status_code == 200
    await shows(limited, True)


async def test_workspaces_upstreams_and_toolsets(api: Api, there: Api, upstream: dict[str, str]) -> None:
    admin = api.caller()

    async def status(path: str) -> int:
        return int((await rpc(there, "ping", path=path)).status_code)

    async def tools() -> list[str]:
        result = (await rpc(there, "tools/list")).json()["result"]
        return [tool["name"] for tool in result["tools"]]

    assert (await admin.request("POST", WORKSPACES, json={"slug": "lab", "name": "Lab"})).status_code == 201
    assert await status("lab") == 200
    assert (await admin.request("DELETE", f"{WORKSPACES}/lab")).status_code in {204, 404}
    created = await admin.created(name="first", **upstream)
    await shows(lambda: rpc_has(tools, "first__"), True)
    assert (await admin.replace(created["id"], name="second", **upstream)).is_success
    await shows(lambda: rpc_has(tools, "second__"), True)
    assert (await admin.delete(created["id"])).status_code == 204
    await shows(tools, [])
    assert await status("main/set") == 404
    assert (await admin.request("POST", TOOLSETS, json={"name": "set", "tools": ["*"]})).status_code == 201
    await shows(lambda: status("main/set"), 200)


async def rpc_has(tools: Callable[[], Awaitable[list[str]]], prefix: str) -> bool:
    found = await tools()
    return bool(found) and all(name.startswith(prefix) for name in found)


async def test_a_policy(api: Api, there: Api, upstream: dict[str, str]) -> None:
    admin = api.caller()
    await admin.created(name="first", **upstream)

    async def listed() -> bool:
        return bool((await rpc(there, "tools/list")).json()["result"]["tools"])

    assert await listed()
    assert (await admin.request("PUT", POLICY, json={"default": "deny"})).status_code == 200
    await shows(listed, False)
    assert (await admin.request("PUT", POLICY, json={"default": "allow"})).status_code == 200
    await shows(listed, True)


async def test_a_list_that_an_upstream_said_has_changed(
    api: Api, there: Api, app_connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """To one process, that is, which tells the others in the line that is sent here."""
    seen = Seen()
    async with served(mcp_app(seen), lifespan=True) as url:
        created = await api.caller().created(name="first", endpoint=f"{url}/mcp")

        async def asked() -> int:
            assert (await rpc(there, "tools/list")).json()["result"]["tools"]
            return len(seen.headers)

        before = await asked()
        assert await asked() == before
        org_id, bob = api.tenant.principal.org_id, user_id_of(ISSUER, "bob")
        line = Change("upstream_tools", org_id, user_id=bob, id=UUID(created["id"])).line
        await app_connection.execute("SELECT pg_notify($1, $2)", CHANNEL, line)

        async def asks_again() -> bool:
            return await asked() > before

        await shows(asks_again, True)
        after = await asked()
        assert await asked() == after


async def test_a_key_and_what_it_depends_on(api: Api, there: Api) -> None:
    admin, mara = api.caller(), api.caller(Role.MEMBER, "mara")
    keys = [(await mara.request("POST", KEYS, json={"name": f"k{number}"})).json() for number in range(3)]

    async def status(key: dict[str, Any]) -> int:
        url = f"/mcp/{there.tenant.principal.org_slug}/main"
        headers = {"Authorization": f"Bearer {key['key']}"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        return (await there.http.request("POST", url, json=body, headers=headers)).status_code

    assert [await status(key) for key in keys] == [200, 200, 200]
    assert (await admin.request("DELETE", f"{KEYS}/{keys[0]['id']}")).status_code == 204
    await shows(lambda: status(keys[0]), 401)
    rotated = await mara.request("POST", f"{KEYS}/{keys[1]['id']}/rotate", json={"overlap_s": 0})
    assert rotated.status_code == 200
    await shows(lambda: status(keys[1]), 401)
    assert await status(rotated.json()) == 200
    assert await status(keys[2]) == 200
    assert (await admin.request("PUT", f"{MEMBERS}/{me('mara')}", json={"role": "viewer"})).status_code == 200
    await shows(lambda: status(keys[2]), 401)


async def test_a_session_and_what_it_depends_on(api: Api, there: Api) -> None:
    admin, mara = api.caller(), api.caller(Role.MEMBER, "mara")
    key = (await mara.request("POST", KEYS, json={"name": "k", "scopes": ["api:write", "mcp:tools"]})).json()
    by_key = await Caller(api.http, key["key"]).request("POST", SESSIONS, json={})
    sessions = [(await mara.request("POST", SESSIONS, json={})).json() for _ in range(4)] + [by_key.json()]

    async def status(token: str) -> int:
        return (await Caller(there.http, token).request("POST", mcp, json=body)).status_code

    mcp = f"/mcp/{there.tenant.principal.org_slug}/main"
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert [await status(session["token"]) for session in sessions] == [200] * 5
    assert (await mara.request("DELETE", f"{SESSIONS}/{sessions[0]['id']}")).status_code == 204
    await shows(lambda: status(sessions[0]["token"]), 401)
    lost = {"token": sessions[1]["token"]}
    assert (await mara.request("POST", "/api/v1/tokens/revoke", json=lost)).status_code == 204
    await shows(lambda: status(sessions[1]["token"]), 401)
    assert (await admin.request("DELETE", f"{KEYS}/{key['id']}")).status_code == 204
    await shows(lambda: status(sessions[4]["token"]), 401)
    assert await status(sessions[2]["token"]) == 200
    assert (await admin.request("PUT", f"{MEMBERS}/{me('mara')}", json={"role": "viewer"})).status_code == 200
    await shows(lambda: status(sessions[2]["token"]), 401)
    assert (await admin.request("PUT", f"{MEMBERS}/{me('mara')}", json={"role": "member"})).status_code == 200
    await shows(lambda: status(sessions[2]["token"]), 200)
    assert (await admin.request("DELETE", f"{MEMBERS}/{me('mara')}")).status_code == 204
    await shows(lambda: status(sessions[3]["token"]), 401)


@pytest.mark.parametrize("end", ["key", "session", "membership", "suspension"])
async def test_an_open_stream_ends_with_what_it_was_opened_by(api: Api, other_app: Starlette, end: str) -> None:
    admin, mara = api.caller(), api.caller(Role.MEMBER, "mara")
    key = (await mara.request("POST", KEYS, json={"name": "k"})).json()
    session = (await mara.request("POST", SESSIONS, json={})).json()
    bearer = {"key": key["key"], "session": session["token"]}.get(end, mara.token)
    headers = {
        "Authorization": f"Bearer {bearer}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "subscriptions/listen",
    }
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    slug = api.tenant.principal.org_slug
    async with served(other_app) as url, httpx2.AsyncClient(base_url=url, timeout=30, **PLAIN) as http:
        async with http.stream("POST", f"/mcp/{slug}/main", json=body, headers=headers) as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            async for line in lines:
                if "subscriptions/acknowledged" in line:
                    break
            if end == "key":
                assert (await admin.request("DELETE", f"{KEYS}/{key['id']}")).status_code == 204
            elif end == "session":
                assert (await mara.request("DELETE", f"{SESSIONS}/{session['id']}")).status_code == 204
            elif end == "membership":
                assert (await admin.request("DELETE", f"{MEMBERS}/{me('mara')}")).status_code == 204
            else:
                assert (await decide(api, suspended=True)).status_code == 200
            async with asyncio.timeout(WITHIN_S):
                rest = [line async for line in lines]
        assert any('"result"' in line for line in rest)
        again = await http.post(f"/mcp/{slug}/main", json=body, headers=headers)
        assert again.status_code == (401 if end in {"key", "session"} else 403)


@pytest.mark.parametrize("scope", ["global", "organization", "workspace", "user"])
async def test_a_prompt_of_every_scope_its_rollback_and_its_end(api: Api, there: Api, scope: str) -> None:
    author = api.caller(Role.PLATFORM_ADMIN, "root")
    workspace = {"workspace": "main"} if scope == "workspace" else {}
    name = f"p-{api.tenant.principal.org_id}"
    body = {"scope": scope, "name": name, "text": "one", **workspace}

    async def text() -> str | None:
        answer = await there.caller(Role.PLATFORM_ADMIN, "root").request("POST", f"{PROMPTS}/compose", json={})
        whole = answer.json()
        part = next((part for part in whole["parts"] if part["name"] == name), None)
        return None if part is None else whole["text"][part["start"] : part["end"]]

    assert await text() is None
    created = await author.request("POST", PROMPTS, json=body)
    assert created.status_code == 201
    path = f"{PROMPTS}/{created.json()['id']}"
    await shows(text, "one")
    assert (await author.request("PUT", path, json={**body, "text": "two"})).status_code == 200
    await shows(text, "two")
    assert (await author.request("POST", f"{path}/rollback", json={"version": 1})).status_code == 200
    await shows(text, "one")
    assert (await author.request("DELETE", path)).status_code == 204
    await shows(text, None)


async def test_an_organisation_that_is_deleted(api: Api, there: Api) -> None:
    async def status() -> int:
        return (await there.caller().request("GET", ORGANIZATIONS)).status_code

    assert await status() == 200
    await api.caller().request("GET", ORGANIZATIONS)
    assert (await decide(api, owner_id=me("alice"))).status_code == 200
    deleted = await api.caller().request("DELETE", f"{ORGANIZATIONS}/{api.tenant.principal.org_id}")
    assert deleted.status_code == 204
    await shows(status, 404)
