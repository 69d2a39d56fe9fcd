"""Policies, toolsets and approvals over the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi.principal import Role
from integration.api.test_configurations import assert_problem

if TYPE_CHECKING:
    from integration.api.harness import Api, Caller

POLICY = "/api/v1/mcp/policy"
TOOLSETS = "/api/v1/mcp/toolsets"
APPROVALS = "/api/v1/mcp/approvals"
READING: dict[str, Any] = {"name": "reading", "tools": ["github__get_*"], "prompts": ["*"]}


async def test_a_policy_is_read_as_it_was_put(api: Api) -> None:
    admin = api.caller()
    empty = await admin.request("GET", POLICY)
    assert (empty.status_code, empty.headers["etag"]) == (200, '"0"')
    assert empty.json()["version"] == 0
    assert empty.json()["policy"]["default"] == "allow"
    document = {
        "rules": [{"effect": "deny", "tools": ["*delete*"], "annotations": {"destructive": True}}],
        "renames": {"github__search": "search"},
        "hold_changed_tools": True,
    }
    put = await admin.request("PUT", POLICY, json=document)
    assert (put.status_code, put.headers["etag"]) == (200, '"1"')
    read = (await admin.request("GET", POLICY)).json()
    assert read == put.json()
    assert read["policy"]["hold_changed_tools"] is True
    again = await admin.request("PUT", POLICY, json=read["policy"])
    assert again.json()["policy"] == read["policy"]


async def test_a_policy_made_to_another_version_is_refused(api: Api) -> None:
    admin = api.caller()
    assert (await admin.request("PUT", POLICY, json={}, headers={"If-Match": '"0"'})).status_code == 200
    answer = await admin.request("PUT", POLICY, json={}, headers={"If-Match": '"0"'})
    assert_problem(answer, 412, "precondition_failed")
    for match in ('"1"', '"7", "2"', "*"):
        assert (await admin.request("PUT", POLICY, json={}, headers={"If-Match": match})).status_code == 200


async def test_a_wrong_policy_is_refused_with_its_fields(api: Api) -> None:
    body = {"rules": [{"effect": "deny", "tools": []}], "renames": {"a": "find_tools"}, "extra": 1}
    problem = assert_problem(await api.caller().request("PUT", POLICY, json=body), 422, "invalid_request")
    assert {error["pointer"] for error in problem["errors"]} == {"/rules/0/tools", "/renames", "/extra"}
    assert_problem(await api.caller().request("PUT", POLICY, content=b"{}"), 415, "unsupported_media_type")


@pytest.mark.parametrize("slug", ["other", "Not a slug", "x" * 2000, "a\x00b"])
async def test_a_workspace_that_is_not_there_has_no_policy(api: Api, slug: str) -> None:
    for method, path in (("GET", POLICY), ("PUT", POLICY), ("GET", TOOLSETS), ("GET", APPROVALS)):
        given: dict[str, Any] = {"json": {}} if method == "PUT" else {}
        answer = await api.caller().request(method, path, params={"workspace": slug}, **given)
        assert_problem(answer, 404, "not_found")


async def created(caller: Caller, **changes: Any) -> dict[str, Any]:
    answer = await caller.request("POST", TOOLSETS, json={**READING, **changes})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{TOOLSETS}/{document['id']}"
    return document


async def test_a_toolset_is_created_read_replaced_and_deleted(api: Api) -> None:
    admin = api.caller()
    document = await created(admin)
    path = f"{TOOLSETS}/{document['id']}"
    read = await admin.request("GET", path)
    assert (read.json(), read.headers["etag"]) == (document, '"1"')
    body = {**READING, "name": "writing", "tools": [], "search_mode": True}
    stale = await admin.request("PUT", path, json=body, headers={"If-Match": '"9"'})
    assert_problem(stale, 412, "precondition_failed")
    replaced = (await admin.request("PUT", path, json=body, headers={"If-Match": '"1"'})).json()
    assert (replaced["name"], replaced["tools"], replaced["search_mode"], replaced["version"]) == (
        "writing",
        [],
        True,
        2,
    )
    moved = await admin.request("PUT", path, json={**body, "workspace": "other"})
    assert_problem(moved, 422, "invalid_request")
    assert (await admin.request("DELETE", path)).status_code == 204
    for method in ("GET", "DELETE"):
        assert_problem(await admin.request(method, path), 404, "not_found")


async def test_toolsets_are_listed_page_by_page(api: Api) -> None:
    admin = api.caller()
    names = [f"set-{number}" for number in range(5)]
    for name in reversed(names):
        await created(admin, name=name)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        parameters = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = (await admin.request("GET", TOOLSETS, params=parameters)).json()
        seen += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == names
    for wrong in ({"limit": "0"}, {"limit": "x"}):
        assert_problem(await admin.request("GET", TOOLSETS, params=wrong), 422, "invalid_request")
    assert_problem(await admin.request("GET", TOOLSETS, params={"cursor": "x"}), 400, "invalid_cursor")


async def test_a_name_is_taken_once(api: Api) -> None:
    admin = api.caller()
    await created(admin)
    other = await created(admin, name="other")
    assert_problem(await admin.request("POST", TOOLSETS, json=READING), 409, "conflict")
    assert_problem(await admin.request("PUT", f"{TOOLSETS}/{other['id']}", json=READING), 409, "conflict")


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER, Role.AGENT])
async def test_who_is_no_admin_changes_nothing(api: Api, role: Role) -> None:
    toolset = await created(api.caller())
    caller = api.caller(role, "bob")
    for method, path, body in (
        ("GET", POLICY, None),
        ("PUT", POLICY, {}),
        ("POST", TOOLSETS, READING),
        ("PUT", f"{TOOLSETS}/{toolset['id']}", READING),
        ("DELETE", f"{TOOLSETS}/{toolset['id']}", None),
    ):
        assert_problem(await caller.request(method, path, json=body), 403, "forbidden")
    readable = 403 if role is Role.AGENT else 200
    assert (await caller.request("GET", TOOLSETS)).status_code == readable


async def test_an_approval_that_is_not_there_is_not_found(api: Api) -> None:
    for id_ in (str(uuid4()), "nonsense"):
        for verb in ("approve", "hold"):
            assert_problem(await api.caller().request("POST", f"{APPROVALS}/{id_}/{verb}"), 404, "not_found")
    assert (await api.caller().request("GET", APPROVALS)).json() == {"items": [], "next_cursor": None}
    wrong = await api.caller().request("GET", APPROVALS, params={"state": "maybe"})
    assert_problem(wrong, 422, "invalid_request")


async def test_a_stranger_is_asked_who_they_are(api: Api) -> None:
    for path in (POLICY, TOOLSETS, APPROVALS, "/api/v1/mcp/explain"):
        answer = await api.http.get(path)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
