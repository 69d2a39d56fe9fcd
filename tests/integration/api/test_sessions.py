"""Sessions over HTTP: started, used, touched and ended; and what somebody tries who is in one, or wants another's."""

from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from agentapi._core import Keyring
from agentapi.identity.api_keys.models import MCP_SCOPES
from agentapi.oauth.connect.tickets import Tickets
from agentapi.principal import Role, UpstreamId
from agentapi.tenancy.store import create_workspace
from integration.api.harness import CONFIGURATIONS, PUBLIC_URL, Api, Caller
from integration.api.test_mcp_endpoint import HEADERS, LIST, own
from support.page_browser import PageBrowser
from support.tasks import eventually
from tenants import make_tenant

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg
    import httpx2

    from agentapi.storage.database import Database

SESSIONS = "/api/v1/sessions"
KEYS = "/api/v1/api-keys"


async def started(caller: Caller, **body: Any) -> dict[str, Any]:
    answer = await caller.request("POST", SESSIONS, json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def read(caller: Caller, session: dict[str, Any]) -> httpx2.Response:
    return await caller.request("GET", f"{SESSIONS}/{session['id']}")


async def end(caller: Caller, session: dict[str, Any]) -> httpx2.Response:
    return await caller.request("DELETE", f"{SESSIONS}/{session['id']}")


async def mcp(api: Api, token: str, path: str | None = None, method: str = "tools/list") -> httpx2.Response:
    message = {**LIST, "method": method}
    return await Caller(api.http, token).request(
        "POST", path or own(api), json=message, headers={**HEADERS, "Mcp-Method": method}
    )


async def status(api: Api, token: str) -> int:
    return (await mcp(api, token)).status_code


async def actions(api: Api, session: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return what the audit log has of a session, the oldest first."""
    params = {"resource": f"session:{session['id']}"}
    page = await api.caller().request("GET", "/api/v1/audit", params=params)
    return [(row["action"], row["details"].get("reason")) for row in reversed(page.json()["items"])]


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def directory_of(api: Api, state_dir: Path, session: dict[str, Any]) -> Path:
    return state_dir / "sessions" / str(api.tenant.principal.org_id) / str(session["id"])


async def until_gone(directory: Path) -> None:
    """Wait for the queue to have removed a directory."""

    async def gone() -> bool:
        return not directory.exists()  # noqa: ASYNC240 - a local one

    await eventually(gone)


async def test_an_agent_can_start_at_once_with_what_the_answer_holds(
    api: Api, state_dir: Path, superuser: asyncpg.Connection[Any]
) -> None:
    await api.caller().request("POST", "/api/v1/prompts", json={"name": "house", "text": "Be kind.\n  Always."})
    alice = api.caller(Role.MEMBER)
    session = await started(alice, name="nightly")
    assert (session["status"], session["role"], session["workspace"]) == ("live", "agent", "main")
    assert session["scopes"] == sorted(MCP_SCOPES)
    assert session["mcp_url"] == f"{PUBLIC_URL}{own(api)}"
    assert "Be kind.\n  Always." in session["system_prompt"]
    claims = claims_of(session["token"])
    assert claims["iss"] == PUBLIC_URL
    assert claims["aud"] == [session["mcp_url"]]
    assert (claims["sid"], claims["sub"]) == (session["id"], session["user_id"])
    assert 0 < claims["exp"] - claims["iat"] <= 3600
    assert await status(api, session["token"]) == 200
    directory = directory_of(api, state_dir, session)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    rows = await superuser.fetch("SELECT sessions::text AS row FROM sessions WHERE id = $1", UUID(session["id"]))
    assert session["token"].rpartition(".")[2] not in rows[0]["row"]
    assert session["token"] not in (await read(alice, session)).text
    assert await actions(api, session) == [("session.created", None)]


@pytest.mark.parametrize(
    ("maker", "body"),
    [
        (Role.MEMBER, {"role": "org_admin"}),
        (Role.MEMBER, {"role": "platform_admin"}),
        (Role.PLATFORM_ADMIN, {"role": "platform_admin"}),
        (Role.VIEWER, {}),
        (Role.AGENT, {}),
    ],
)
async def test_a_session_is_no_wider_than_its_maker(api: Api, maker: Role, body: dict[str, Any]) -> None:
    answer = await api.caller(maker, "somebody").request("POST", SESSIONS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": []},
        {"scopes": ["api:write"]},
        {"role": "king"},
        {"workspace": "../main"},
        {"name": "a\u0000b"},
        {"id": str(uuid4())},
        {"directory": "/etc"},
        {"user_id": str(uuid4())},
        {"expires_in_s": 0},
        {"idle_timeout_s": -1},
        {"variables": {"nobody": "declares"}},
    ],
)
async def test_a_wrong_wish_is_refused_and_starts_nothing(api: Api, body: dict[str, Any]) -> None:
    answer = await api.caller().request("POST", SESSIONS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await api.caller().request("GET", SESSIONS)).json()["items"] == []


async def test_a_session_in_no_workspace_leaves_no_directory(api: Api, state_dir: Path) -> None:
    answer = await api.caller().request("POST", SESSIONS, json={"workspace": "missing"})
    assert answer.status_code == 404
    assert not (state_dir / "sessions" / str(api.tenant.principal.org_id)).exists()


async def test_a_session_may_be_shorter_than_the_deployment_allows_and_no_longer(api: Api) -> None:
    short = await started(api.caller(), expires_in_s=60)
    long = await started(api.caller(), expires_in_s=31_622_400, idle_timeout_s=31_622_400)
    life = datetime.fromisoformat(short["expires_at"]) - datetime.fromisoformat(short["created_at"])
    assert life == timedelta(seconds=60)
    assert datetime.fromisoformat(short["token_expires_at"]) <= datetime.fromisoformat(short["expires_at"])
    life = datetime.fromisoformat(long["expires_at"]) - datetime.fromisoformat(long["created_at"])
    assert (life, long["idle_timeout_s"]) == (timedelta(days=1), 3600)


async def test_a_token_of_a_session_is_good_in_its_workspace_alone(api: Api, database: Database) -> None:
    async with database.tenant_transaction(api.tenant.principal) as connection:
        org_id = api.tenant.principal.org_id
        await create_workspace(connection, workspace_id=uuid4(), org_id=org_id, slug="other", name="O")  # type: ignore[arg-type]
    token = (await started(api.caller(), workspace="other"))["token"]
    assert (await mcp(api, token, own(api, "other"))).status_code == 200
    elsewhere = await mcp(api, token)
    assert (elsewhere.status_code, elsewhere.content) == (401, (await mcp(api, "x.y.z")).content)
    foreign = Api(api.http, api.issuer, await make_tenant(database, "eve"))
    assert (await mcp(api, token, own(foreign))).status_code == 401


async def test_an_operation_needs_its_scope_whatever_the_makers_issuer_says(api: Api) -> None:
    token = (await started(api.caller(), scopes=["mcp:prompts"]))["token"]
    assert (await mcp(api, token, method="prompts/list")).status_code == 200
    assert (await mcp(api, token)).status_code == 403


async def test_a_session_opens_no_route_of_the_api(api: Api) -> None:
    """Its token is for the MCP URL, so that it makes no sessions, keys or wider tokens, whatever its role."""
    session = await started(api.caller(), role="org_admin")
    thief, place = Caller(api.http, session["token"]), f"{SESSIONS}/{session['id']}"
    for method, path, body in (
        ("POST", SESSIONS, {}),
        ("POST", f"{place}/tokens", {}),
        ("POST", f"{place}/touch", {}),
        ("GET", place, None),
        ("DELETE", place, None),
        ("POST", KEYS, {"name": "more"}),
        ("GET", CONFIGURATIONS, None),
        ("POST", "/api/v1/invitations/accept", {"token": "agi_x"}),
    ):
        answer = await thief.request(method, path, json=body)
        assert answer.status_code == 401, (method, path, answer.text)
    assert await status(api, session["token"]) == 200


async def test_the_token_of_a_session_is_nobodys_proof_on_a_page_for_people(api: Api, keyring: str) -> None:
    """An agent has it; as its user it could connect accounts and take invitations, which the session may not."""
    token = (await started(api.caller()))["token"]
    tickets = Tickets(Keyring.parse(keyring), public_url=PUBLIC_URL, clock=lambda: datetime.now(UTC))
    invited = await api.caller().request("POST", "/api/v1/invitations", json={"role": "org_admin"})
    connect = tickets.url(api.tenant.principal, UpstreamId(uuid4()), workspace="main")
    for url in (connect, invited.json()["accept_url"]):
        browser = PageBrowser(api.http)
        page = await browser.submit(await browser.get(url), token=token)
        assert (page.status, len(page.forms)) == (403, 1), url
        assert not any("session" in name for name in browser.cookies)


async def test_ending_a_session_ends_its_tokens_at_once_and_its_directory_soon(api: Api, state_dir: Path) -> None:
    alice = api.caller(Role.MEMBER)
    session = await started(alice)
    directory = directory_of(api, state_dir, session)
    (directory / "notes").write_text("x")
    more = await alice.request("POST", f"{SESSIONS}/{session['id']}/tokens")
    assert (more.status_code, more.headers["cache-control"]) == (201, "no-store")
    tokens = (session["token"], more.json()["token"])
    assert claims_of(tokens[0])["jti"] != claims_of(tokens[1])["jti"]
    assert [await status(api, token) for token in tokens] == [200, 200]
    assert (await end(alice, session)).status_code == 204
    assert [await status(api, token) for token in tokens] == [401, 401]
    assert (await end(alice, session)).status_code == 204
    document = (await read(alice, session)).json()
    assert (document["status"], document["end_reason"]) == ("ended", "ended")
    assert document["ended_at"] is not None
    for action in ("touch", "tokens"):
        assert (await alice.request("POST", f"{SESSIONS}/{session['id']}/{action}")).status_code == 409
    expected = [("session.created", None), ("session.token_minted", None), ("session.ended", "ended")]
    assert await actions(api, session) == expected
    await until_gone(directory)


async def test_a_session_is_its_users_and_an_admins_alone(api: Api) -> None:
    alice, bob = api.caller(Role.MEMBER, "mara"), api.caller(Role.MEMBER, "bob")
    session = await started(alice)
    place = f"{SESSIONS}/{session['id']}"
    for method, path in (("GET", place), ("DELETE", place), ("POST", f"{place}/touch"), ("POST", f"{place}/tokens")):
        answer = await bob.request(method, path)
        made_up = await bob.request(method, path.replace(session["id"], str(uuid4())))
        assert (answer.status_code, answer.content) == (404, made_up.content), (method, path)
    assert (await bob.request("GET", SESSIONS)).json()["items"] == []
    admin = api.caller(Role.ORG_ADMIN, "olga")
    assert (await read(admin, session)).status_code == 200
    assert session["id"] in (await admin.request("GET", SESSIONS)).text
    # A token acts as the user it is of, so that not even an admin gets one.
    assert (await admin.request("POST", f"{place}/tokens")).status_code == 403
    assert (await admin.request("POST", f"{place}/touch")).status_code == 403
    assert (await end(admin, session)).status_code == 204
    assert await status(api, session["token"]) == 401


async def test_sessions_are_listed_in_pages_the_newest_first(api: Api) -> None:
    alice = api.caller(Role.MEMBER)
    made = [(await started(alice, name=f"s{number}"))["name"] for number in range(5)]
    names: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        page = (await alice.request("GET", SESSIONS, params=params)).json()
        names += [item["name"] for item in page["items"]]
        assert "token" not in page["items"][0]
        params["cursor"] = page["next_cursor"]
    assert names == made[::-1]
    assert params["cursor"] is None
    wrong = await alice.request("GET", SESSIONS, params={"cursor": "bm9uc2Vuc2U="})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_cursor")


async def test_a_touch_is_noted(api: Api) -> None:
    alice = api.caller(Role.MEMBER)
    session = await started(alice)
    touched = await alice.request("POST", f"{SESSIONS}/{session['id']}/touch")
    assert touched.status_code == 200
    noted = datetime.fromisoformat(touched.json()["last_used_at"])
    assert noted > datetime.fromisoformat(session["last_used_at"])
    assert datetime.fromisoformat((await read(alice, session)).json()["last_used_at"]) == noted


@pytest.mark.parametrize(("column", "reason"), [("expires_at", "expired"), ("last_used_at", "idle")])
async def test_time_ends_a_session_whether_the_sweep_came_by_or_not(
    api: Api, superuser: asyncpg.Connection[Any], column: str, reason: str
) -> None:
    alice = api.caller(Role.MEMBER)
    session = await started(alice)
    past = datetime.now(UTC) - timedelta(hours=2)
    await superuser.execute(f"UPDATE sessions SET {column} = $2 WHERE id = $1", UUID(session["id"]), past)  # noqa: S608
    assert await status(api, session["token"]) == 401
    document = (await read(alice, session)).json()
    assert (document["status"], document["end_reason"]) == ("ended", reason)
    assert (await alice.request("POST", f"{SESSIONS}/{session['id']}/tokens")).status_code == 409


async def test_what_a_key_makes_is_no_wider_than_the_key_and_ends_with_it(api: Api) -> None:
    alice = api.caller(Role.MEMBER)
    body = {"name": "ci", "scopes": ["api:read", "api:write", "mcp:tools"]}
    key = (await alice.request("POST", KEYS, json=body)).json()
    holder = Caller(api.http, key["key"])
    session = await started(holder)
    assert session["scopes"] == ["mcp:tools"]
    wider = await holder.request("POST", SESSIONS, json={"scopes": ["mcp:prompts"]})
    assert (wider.status_code, wider.json()["code"]) == (403, "forbidden")
    assert await status(api, session["token"]) == 200
    assert (await alice.request("DELETE", f"{KEYS}/{key['id']}")).status_code == 204
    # A second at most, as with the key itself.
    await eventually(lambda: refused(api, session["token"]), within_s=5)


async def refused(api: Api, token: str) -> bool:
    return await status(api, token) == 401


async def test_a_member_who_is_removed_has_no_sessions_left(api: Api, state_dir: Path) -> None:
    bob = api.caller(Role.MEMBER, "bob")
    session = await started(bob)
    directory = directory_of(api, state_dir, session)
    admin = api.caller()
    assert (await admin.request("DELETE", f"/api/v1/members/{session['user_id']}")).status_code == 204
    assert await status(api, session["token"]) == 401
    assert not directory.exists()
    assert await actions(api, session) == [("session.created", None), ("session.ended", "member_removed")]


async def test_an_organisation_that_is_deleted_leaves_no_session_and_no_directory(
    api: Api, state_dir: Path, superuser: asyncpg.Connection[Any]
) -> None:
    session = await started(api.caller())
    root, slug = api.caller(Role.PLATFORM_ADMIN, "root"), api.tenant.principal.org_slug
    assert (await root.request("DELETE", f"/api/v1/platform/organizations/{slug}")).status_code == 204
    assert await status(api, session["token"]) in {401, 404}
    rows = await superuser.fetchval("SELECT count(*) FROM sessions WHERE id = $1", UUID(session["id"]))
    assert rows == 0
    assert not directory_of(api, state_dir, session).parent.exists()


async def test_what_a_session_shows_once_it_has_ended_or_was_revoked_is_in_its_organisations_log(api: Api) -> None:
    alice = api.caller(Role.MEMBER)
    session = await started(alice)
    more = (await alice.request("POST", f"{SESSIONS}/{session['id']}/tokens")).json()["token"]
    assert (await alice.request("POST", "/api/v1/tokens/revoke", json={"token": more})).status_code == 204
    assert await status(api, more) == 401
    assert (await end(alice, session)).status_code < 300
    assert await status(api, session["token"]) == 401

    async def refusals() -> list[tuple[str, str]]:
        page = await api.caller().request("GET", "/api/v1/audit", params={"action": "auth.refused"})
        return [(row["actor_id"], row["details"]["reason"]) for row in reversed(page.json()["items"])]

    async def both() -> bool:
        return len(await refusals()) == 2

    await eventually(both)
    assert await refusals() == [(session["user_id"], "revoked"), (session["user_id"], "session_ended")]


async def test_a_suspended_organisation_has_no_sessions_to_use(api: Api) -> None:
    session = await started(api.caller())
    root, slug = api.caller(Role.PLATFORM_ADMIN, "root"), api.tenant.principal.org_slug
    place = f"/api/v1/platform/organizations/{slug}"
    assert (await root.request("PUT", place, json={"suspended": True})).status_code == 200
    assert await status(api, session["token"]) in {401, 403}
    assert (await root.request("PUT", place, json={"suspended": False})).status_code == 200
    assert await status(api, session["token"]) == 200


async def test_the_plan_says_how_many_live_at_once_of_a_user_and_of_all(api: Api) -> None:
    root, slug = api.caller(Role.PLATFORM_ADMIN, "root"), api.tenant.principal.org_slug
    plan = {"max_sessions": 3, "max_sessions_per_user": 2}
    answer = await root.request("PUT", f"/api/v1/platform/organizations/{slug}", json=plan)
    assert (answer.json()["max_sessions"], answer.json()["max_sessions_per_user"]) == (3, 2)
    alice, bob = api.caller(Role.MEMBER, "mara"), api.caller(Role.MEMBER, "bob")
    first = await started(alice)
    await started(alice)
    third = await alice.request("POST", SESSIONS, json={})
    assert (third.status_code, third.json()["code"]) == (409, "limit_reached")
    assert "sessions of one user" in third.json()["detail"]
    await started(bob)
    assert "no more sessions." in (await bob.request("POST", SESSIONS, json={})).json()["detail"]
    assert (await end(alice, first)).status_code == 204
    await started(bob)
    assert (await alice.request("POST", SESSIONS, json={})).status_code == 409


async def test_a_session_whose_time_has_come_takes_nobodys_place(api: Api, superuser: asyncpg.Connection[Any]) -> None:
    root, slug = api.caller(Role.PLATFORM_ADMIN, "root"), api.tenant.principal.org_slug
    await root.request("PUT", f"/api/v1/platform/organizations/{slug}", json={"max_sessions": 1})
    old = await started(api.caller())
    past = datetime.now(UTC) - timedelta(hours=2)
    await superuser.execute("UPDATE sessions SET last_used_at = $2 WHERE id = $1", UUID(old["id"]), past)
    await started(api.caller())
    assert await actions(api, old) == [("session.created", None), ("session.expired", "idle")]


async def test_a_start_that_is_repeated_with_its_key_is_the_same_one(api: Api, state_dir: Path) -> None:
    """The transactions of such a request are one, which commits behind the answer's making."""
    alice, headers = api.caller(Role.MEMBER), {"Idempotency-Key": "first"}
    first = await alice.request("POST", SESSIONS, json={}, headers=headers)
    again = await alice.request("POST", SESSIONS, json={}, headers=headers)
    assert (first.status_code, again.json()) == (201, first.json())
    assert [item["id"] for item in (await alice.request("GET", SESSIONS)).json()["items"]] == [first.json()["id"]]
    assert await status(api, first.json()["token"]) == 200
    assert directory_of(api, state_dir, first.json()).is_dir()
