"""What ends a session beside its time and its user: whatever it rests on goes, and nothing of it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentapi.principal import Role
from agentapi.tenancy.models import user_id_of
from integration.api.harness import ISSUER, Api, Caller
from integration.api.test_mcp_endpoint import HEADERS, LIST, own
from integration.api.test_sessions import (
    KEYS,
    actions,
    directory_of,
    end,
    mcp,
    read,
    refused,
    started,
    status,
    until_gone,
)
from support.processes import naming, still_alive
from support.tasks import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from support.processes import ProcessId


async def agents_session(api: Api, maker: Caller) -> tuple[Caller, dict[str, Any]]:
    """Return an agent's key, which acts as nobody else, a session that was started with it."""
    body = {"name": "bot", "acts_as": "agent", "role": "member", "scopes": ["api:read", "api:write", "mcp:tools"]}
    answer = await maker.request("POST", KEYS, json=body)
    assert answer.status_code == 201, answer.text
    holder = Caller(api.http, answer.json()["key"])
    return holder, {**await started(holder), "maker": answer.json()["created_by"]}


async def test_a_session_of_an_agents_key_ends_with_the_membership_of_the_keys_maker(api: Api) -> None:
    holder, session = await agents_session(api, api.caller(Role.MEMBER, "bob"))
    assert await status(api, session["token"]) == 200
    assert (await api.caller().request("DELETE", f"/api/v1/members/{session['maker']}")).status_code == 204
    assert await status(api, session["token"]) == 401
    assert await actions(api, session) == [("session.created", None), ("session.ended", "member_removed")]
    await eventually(lambda: refused(api, holder.token), within_s=5)


async def test_a_session_of_an_agents_key_does_nothing_while_the_keys_maker_is_less_than_the_key(api: Api) -> None:
    holder, session = await agents_session(api, api.caller(Role.MEMBER, "bob"))
    assert await status(api, session["token"]) == 200
    place = f"/api/v1/members/{session['maker']}"
    assert (await api.caller().request("PUT", place, json={"role": "viewer"})).status_code == 200
    await eventually(lambda: refused(api, holder.token), within_s=5)
    await eventually(lambda: refused(api, session["token"]), within_s=5)


async def ask_clock(api: Api, token: str) -> None:
    arguments = {"name": "clock__current_time", "arguments": {}}
    message = {**LIST, "method": "tools/call", "params": {**LIST["params"], **arguments}}  # type: ignore[dict-item] # JSON
    headers = {**HEADERS, "Mcp-Method": "tools/call", "Mcp-Name": "clock__current_time"}
    answer = await Caller(api.http, token).request("POST", own(api), json=message, headers=headers)
    assert '"isError":true' not in answer.text.replace(" ", ""), answer.text
    assert answer.status_code == 200, answer.text


async def call_clock(api: Api, token: str, state_dir: Path, session: dict[str, Any]) -> frozenset[ProcessId]:
    """Have a session ask the clock; return the processes that run in the session's directory by then."""
    await ask_clock(api, token)
    running = naming(str(directory_of(api, state_dir, session)))
    assert running
    return running


async def test_what_a_session_runs_has_ended_when_its_end_is_answered(api: Api, state_dir: Path) -> None:
    await api.caller().created(name="clock", transport="stdio", endpoint=..., command="clock")
    alice = api.caller(Role.MEMBER)
    session = await started(alice)
    running = await call_clock(api, session["token"], state_dir, session)
    assert (await end(alice, session)).status_code == 204
    assert not still_alive(running)


async def test_what_a_session_runs_ends_with_the_membership_of_its_user(api: Api, state_dir: Path) -> None:
    await api.caller().created(name="clock", transport="stdio", endpoint=..., command="clock")
    session = await started(api.caller(Role.MEMBER, "bob"))
    running = await call_clock(api, session["token"], state_dir, session)
    assert (await api.caller().request("DELETE", f"/api/v1/members/{session['user_id']}")).status_code == 204
    assert not still_alive(running)
    assert not directory_of(api, state_dir, session).exists()


async def test_a_session_that_lives_works_on_a_host_that_lacks_its_directory(api: Api, state_dir: Path) -> None:
    await api.caller().created(name="clock", transport="stdio", endpoint=..., command="clock")
    session = await started(api.caller(Role.MEMBER))
    directory_of(api, state_dir, session).rmdir()
    await call_clock(api, session["token"], state_dir, session)


async def test_a_token_of_a_session_does_not_follow_the_slug_of_its_workspace(api: Api) -> None:
    admin, place = api.caller(), "/api/v1/workspaces"
    assert (await admin.request("POST", place, json={"slug": "lab", "name": "Lab"})).status_code == 201
    token = (await started(admin, workspace="lab"))["token"]
    assert (await mcp(api, token, own(api, "lab"))).status_code == 200
    renamed = await admin.request("PUT", f"{place}/lab", json={"slug": "lab-old", "name": "Lab"})
    assert renamed.status_code == 200, renamed.text
    assert (await admin.request("POST", place, json={"slug": "lab", "name": "Another"})).status_code == 201
    answer = await mcp(api, token, own(api, "lab"))
    missing = await mcp(api, admin.token, own(api, "missing"))
    assert (answer.status_code, answer.content) == (404, missing.content)


async def test_a_session_ends_with_the_key_that_made_it_and_counts_no_more(
    api: Api, superuser: asyncpg.Connection[Any]
) -> None:
    alice = api.caller(Role.MEMBER)
    body = {"name": "ci", "scopes": ["api:read", "api:write", "mcp:tools"]}
    key = (await alice.request("POST", KEYS, json=body)).json()
    session = await started(Caller(api.http, key["key"]))
    assert (await alice.request("DELETE", f"{KEYS}/{key['id']}")).status_code == 204
    assert await status(api, session["token"]) == 401
    document = (await read(alice, session)).json()
    assert (document["status"], document["end_reason"]) == ("ended", "key_revoked")
    assert await actions(api, session) == [("session.created", None), ("session.ended", "key_revoked")]
    count = "SELECT sessions_used FROM organizations WHERE id = $1"
    assert await superuser.fetchval(count, api.tenant.principal.org_id) == 0


async def test_a_session_whose_key_has_expired_gets_no_further_token(
    api: Api, superuser: asyncpg.Connection[Any]
) -> None:
    alice = api.caller(Role.MEMBER)
    body = {"name": "ci", "scopes": ["api:read", "api:write", "mcp:tools"]}
    key = (await alice.request("POST", KEYS, json=body)).json()
    session = await started(Caller(api.http, key["key"]))
    tokens = f"/api/v1/sessions/{session['id']}/tokens"
    assert (await alice.request("POST", tokens)).status_code == 201
    expire = "UPDATE api_keys SET expires_at = created_at + interval '1 microsecond' WHERE id = $1"
    await superuser.execute(expire, UUID(key["id"]))
    assert (await alice.request("POST", tokens)).status_code == 409


async def test_the_sessions_in_a_workspace_that_is_deleted_end_on_the_record(api: Api, state_dir: Path) -> None:
    admin, place = api.caller(), "/api/v1/workspaces"
    assert (await admin.request("POST", place, json={"slug": "lab", "name": "Lab"})).status_code == 201
    session = await started(admin, workspace="lab")
    assert (await mcp(api, session["token"], own(api, "lab"))).status_code == 200
    assert (await admin.request("DELETE", f"{place}/lab")).status_code == 204
    assert (await mcp(api, session["token"], own(api, "lab"))).status_code == 401
    assert (await read(admin, session)).status_code == 404
    assert await actions(api, session) == [("session.created", None), ("session.ended", "workspace_deleted")]
    await until_gone(directory_of(api, state_dir, session))


async def test_a_workspace_that_is_not_deleted_keeps_its_sessions(api: Api) -> None:
    admin, place = api.caller(), "/api/v1/workspaces"
    await admin.created()
    session = await started(admin)
    assert (await admin.request("DELETE", f"{place}/main")).status_code == 409
    assert await status(api, session["token"]) == 200
    assert await actions(api, session) == [("session.created", None)]


async def test_what_a_member_runs_without_a_session_ends_with_the_membership(api: Api, state_dir: Path) -> None:
    await api.caller().created(name="clock", transport="stdio", endpoint=..., command="clock")
    bob, alice = api.caller(Role.MEMBER, "bob"), api.caller()
    before = naming(str(state_dir / "stdio"))
    await ask_clock(api, bob.token)
    bobs = naming(str(state_dir / "stdio")) - before
    await ask_clock(api, alice.token)
    others = naming(str(state_dir / "stdio")) - before - bobs
    assert bobs
    assert others
    user_id = user_id_of(ISSUER, "bob")
    assert (await alice.request("DELETE", f"/api/v1/members/{user_id}")).status_code == 204
    assert not still_alive(bobs)
    assert still_alive(others) == others
