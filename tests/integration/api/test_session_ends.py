"""What ends a session beside its time and its user: whatever it rests on goes, and nothing of it runs on."""

from __future__ import annotations

from typing import Any

from agentapi.principal import Role
from integration.api.harness import Api, Caller
from integration.api.test_sessions import KEYS, actions, refused, started, status
from support.tasks import eventually


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
